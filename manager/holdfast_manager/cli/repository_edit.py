"""`holdfast repository edit`, and the limits that it shares with `repository add`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.units import format_rate, parse_size
from holdfast_manager.catalog.values import RepositoryEntry

from .app import App, pass_app
from .commands import Command

F = TypeVar("F", bound=Callable[..., Any])
SLOTS = click.IntRange(1, 1024)
_LIMIT_KEYS = {"read-limit": "read_limit_bytes_per_s", "write-limit": "write_limit_bytes_per_s"}


def limit_options(function: F) -> F:
    """Decorator: the limits of a repository."""
    for option in (
        click.option(
            "--write-limit",
            metavar="RATE",
            help='What all tasks together may write to it per second, such as "100 MiB". Default: no limit.',
        ),
        click.option("--read-limit", metavar="RATE", help="The same for what they read from it."),
    ):
        function = option(function)
    return function


def limits_given(read_limit: str | None, write_limit: str | None) -> dict[str, Any]:
    """The fields of those limits that were given. Raises :class:`UsageError`."""
    given = {"read_limit_bytes_per_s": read_limit, "write_limit_bytes_per_s": write_limit}
    return {name: parse_size(text) for name, text in given.items() if text is not None}


@click.command(
    cls=Command,
    examples=(
        "holdfast repository edit main --write-limit '50 MiB'",
        "holdfast repository edit main --reset write-limit --slots 8",
    ),
)
@click.argument("name")
@click.option("--slots", type=SLOTS, help="Tasks at once in it.")
@limit_options
@click.option("--reset", multiple=True, type=click.Choice(list(_LIMIT_KEYS)), help="Lift a limit (repeatable).")
@pass_app
def edit(
    app: App, name: str, slots: int | None, read_limit: str | None, write_limit: str | None, reset: tuple[str, ...]
) -> None:
    """Change a repository's settings; what is not named stays. Tasks that run obey a new limit at once."""
    change = dict.fromkeys(_LIMIT_KEYS[key] for key in reset) | limits_given(read_limit, write_limit)
    if slots is not None:
        change["slots"] = slots
    if not change:
        raise UsageError(reason="nothing to change; see `holdfast repository edit --help`")
    entry = msgspec.structs.replace(app.catalog.repositories.get(name), **change)
    app.catalog.repositories.update(entry)
    app.out.result({"repository": entry}, f"Changed repository {name}: {entry.slots} slots, {limits_text(entry)}")


def limits_text(entry: RepositoryEntry) -> str:
    limits = (("read", entry.read_limit_bytes_per_s), ("write", entry.write_limit_bytes_per_s))
    told = [f"{what} {format_rate(limit)}" for what, limit in limits if limit is not None]
    return ", ".join(told) + " for all tasks together" if told else "no limit"
