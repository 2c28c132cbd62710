"""`holdfast config …`."""

from __future__ import annotations

import json
from typing import Any

import click

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def config() -> None:
    """The manager's own configuration."""


@config.command(examples=("holdfast config show", "holdfast --config ./manager.toml config show"))
@pass_app
def show(app: App) -> None:
    """The effective configuration as TOML: defaults filled in, secrets left out."""
    shown = app.settings.shown()
    app.out.result({"config": shown}, lambda: _toml(shown))


def _toml(table: dict[str, Any]) -> str:
    plain = [f"{key} = {_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    inner = [
        "\n".join([f"\n[{name}]", *(f"{key} = {_value(value)}" for key, value in inner_table.items())])
        for name, inner_table in table.items()
        if isinstance(inner_table, dict)
    ]
    return "\n".join([*plain, *inner])


def _value(value: Any) -> str:
    # a JSON string, number, truth value or list of them is also a TOML one
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
