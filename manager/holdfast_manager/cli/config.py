"""`holdfast config …`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from holdfast_agent.model.units import format_size
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .approving import require_approval
from .asking import existing_passphrase, new_passphrase
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


@config.command(
    examples=("holdfast config key", 'holdfast-agent authorize "$(ssh vault holdfast config key)" --name vault')
)
@pass_app
def key(app: App) -> None:
    """The manager's public key, which agents must admit."""
    app.out.result({"public_key": app.keys.public}, lambda: app.keys.public)


_passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Its first line is the backup's passphrase (mode 0600). Default: a prompt, or a line of standard input.",
)


@config.command(examples=("holdfast config backup /mnt/safe/holdfast.backup",))
@click.argument("file", type=click.Path(path_type=Path))
@_passphrase_file
@pass_app
def backup(app: App, file: Path, passphrase_file: Path | None) -> None:
    """Write database, sealing key and identity to one new file, encrypted under a passphrase.

    Sessions may run meanwhile. Keep the file off this host, and do it again after changes: `holdfast config restore`
    makes a manager of it that agents and repositories know.
    """
    from holdfast_manager.catalog.config_backup import back_up

    app.catalog.agents.list()  # there is a configuration, and it can be read
    if not app.actor.local:
        require_approval(app, [f"the manager's database and keys, in a file for {app.actor.name}"])
    manifest = back_up(app.settings, file, new_passphrase(app, passphrase_file))
    size = file.stat().st_size
    document = {"file": str(file), "size_bytes": size, "created": manifest.created}
    app.out.result(document, f"Backed the configuration up to {file} ({format_size(size)})")


@config.command(examples=("holdfast config restore /mnt/safe/holdfast.backup",))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_passphrase_file
@pass_app
def restore(app: App, file: Path, passphrase_file: Path | None) -> None:
    """Make this host the manager that a backup was taken of. Refuses where there is a configuration already.

    Never let the old manager and the restored one run at the same time.
    """
    from holdfast_manager.catalog.config_backup import restore as put_back

    manifest = put_back(app.settings, file, existing_passphrase(app, passphrase_file, str(file)))
    jobs = len(app.catalog.jobs.list())
    taken = moment(manifest.created)
    document = {"data_dir": str(app.settings.home), "created": manifest.created, "jobs": jobs}
    text = f"Restored the configuration of {taken} to {app.settings.home}: {counted(jobs, 'job')}"
    app.out.result(document, text)
    app.out.note("Points that are newer than the backup: `holdfast repository rescan NAME`")


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
