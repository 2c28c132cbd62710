"""`holdfast server …`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from msgspec import structs

from holdfast_agent.errors import AlreadyExists, UsageError
from holdfast_agent.model import strict
from holdfast_manager.catalog.values import ServerEntry, ServerLimits
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import facts, indented, table

from .app import App, pass_app
from .asking import credentials
from .commands import Group, pairs

F = TypeVar("F", bound=Callable[..., Any])
_LIMITS: dict[str, tuple[str, type, str]] = {
    "max-tasks": ("tasks", int, "Tasks of all jobs at once on it."),
    "max-tasks-per-host": ("tasks_per_host", int, "The same on each of its hosts."),
    "max-tasks-per-datastore": ("tasks_per_datastore", int, "The same on each of its datastores."),
    "max-latency": ("latency_ms", float, "No task starts on a datastore that takes longer (ms)."),
    "throttle-latency": ("throttle_latency_ms", float, "Above it (ms) tasks are slowed down."),
    "snapshot-spacing": ("snapshot_spacing_s", float, "Between two snapshots on one datastore (seconds)."),
}
"""Options, the limits that they set, and what they say."""


def _limit_options(function: F) -> F:
    """Decorator: how much may be asked of a server at once. Default: no limit."""
    for option, (key, kind, text) in reversed(_LIMITS.items()):
        function = click.option(f"--{option}", key, type=kind, help=text)(function)
    return function


def _limits(before: Mapping[str, Any], given: Mapping[str, float | None], reset: Sequence[str]) -> ServerLimits | None:
    """None without any. Raises ``ConfigInvalid``."""
    lifted = {_LIMITS[option][0] for option in reset}
    merged = {key: limit for key, limit in before.items() if key not in lifted}
    merged |= {key: limit for key, limit in given.items() if limit is not None}
    told = strict.convert(merged, ServerLimits, "options")
    return None if told == ServerLimits() else told


@click.group(cls=Group)
def server() -> None:
    """Servers: the hypervisors whose VMs are backed up."""


@server.command(
    examples=(
        "holdfast server add lab --plugin images --option path=/srv/images",
        "holdfast server add prod --plugin vsphere --option host=vc.example.org --secret user --secret password",
        "holdfast server add prod --plugin vsphere --option host=vc.example.org --secret-file ./prod.env",
    )
)
@click.argument("name")
@click.option("--plugin", required=True, help="The hypervisor plugin; `holdfast plugin list` shows them.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE",
    help='An option of the plugin. Numbers, true, false and ["lists"] are taken as such, all else as text.',
)  # fmt: skip
@click.option(
    "--secret", "secrets", multiple=True, metavar="KEY",
    help="A credential that is asked for, or read from standard input, one line each.",
)  # fmt: skip
@click.option(
    "--secret-file", type=click.Path(path_type=Path), metavar="FILE", help="Credentials as lines KEY=VALUE (mode 0600)."
)
@click.option("--lacking-rights", is_flag=True, help="Add it though the user may not do all that backups need.")
@_limit_options
@pass_app
def add(
    app: App,
    /,
    name: str,
    plugin: str,
    options: tuple[str, ...],
    secrets: tuple[str, ...],
    secret_file: Path | None,
    lacking_rights: bool,
    **limits: float | None,
) -> None:
    """Connect to a server and add it. Secrets never stand on the command line; they are kept sealed."""
    from holdfast_manager.enrolment.servers import try_server
    from holdfast_plugins.api.registry import Family

    if any(entry.name == name for entry in app.catalog.servers.list()):
        raise AlreadyExists(kind="server", name=name)
    options_told = option_table(options, "--option")
    entry = ServerEntry(name=name, plugin=plugin, options=options_told, limits=_limits({}, limits, ()))
    app.host.check_options(Family.HYPERVISOR, plugin, entry.options, f"options of server {name!r}")
    secret = credentials(app, secrets, secret_file)
    vms = try_server(app.host, entry, secret, lacking_rights)
    app.catalog.servers.add(entry, secret or None)
    app.out.result(
        {"server": app.catalog.servers.get(name), "vms": vms}, f"Added server {name}: {counted(len(vms), 'VM')}"
    )


@server.command(
    examples=(
        "holdfast server edit lab --max-tasks 8 --max-tasks-per-host 2",
        "holdfast server edit lab --reset max-tasks --option path=/srv/vms",
        "holdfast server edit prod --secret-file ./prod.env",
    )
)
@click.argument("name")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the plugin; the others stay."
)
@click.option("--reset-option", "dropped", multiple=True, metavar="KEY", help="An option back to its default.")
@click.option("--secret", "secrets", multiple=True, metavar="KEY", help="A credential that is asked for anew.")
@click.option(
    "--secret-file", type=click.Path(path_type=Path), metavar="FILE", help="All credentials anew, as lines KEY=VALUE."
)
@click.option("--lacking-rights", is_flag=True, help="Though the user may not do all that backups need.")
@_limit_options
@click.option("--reset", multiple=True, type=click.Choice(list(_LIMITS)), help="Lift a limit (repeatable).")
@pass_app
def edit(
    app: App,
    /,
    name: str,
    options: tuple[str, ...],
    dropped: tuple[str, ...],
    secrets: tuple[str, ...],
    secret_file: Path | None,
    lacking_rights: bool,
    reset: tuple[str, ...],
    **limits: float | None,
) -> None:
    """Change a server; what is not named stays. New options and credentials are tried before they are kept.

    Tasks that wait are placed by new limits at once; those that run are not disturbed.
    """
    from holdfast_manager.enrolment.servers import try_server

    before = app.catalog.servers.get(name)
    kept = {key: value for key, value in before.options.items() if key not in dropped}
    entry = structs.replace(
        before,
        options=kept | option_table(options, "--option"),
        limits=_limits(msgspec.to_builtins(before.limits or ServerLimits()), limits, reset),
    )
    anew = bool(secrets) or secret_file is not None
    if entry == before and not anew:
        raise UsageError(reason="nothing to change; see `holdfast server edit --help`")
    if anew or entry.options != before.options:
        stored = app.catalog.servers.secret(name)
        secret = (stored if secret_file is None else {}) | credentials(app, secrets, secret_file) if anew else stored
        try_server(app.host, entry, secret, lacking_rights)
        if anew:
            app.catalog.servers.set_secret(name, secret or None)
    app.catalog.servers.update(entry)
    app.out.result({"server": app.catalog.servers.get(name)}, f"Changed server {name}")


@server.command("list", examples=("holdfast server list",))
@pass_app
def list_(app: App) -> None:
    """All servers."""
    entries = app.catalog.servers.list()
    owed = {entry.name: len(app.catalog.obligations.open_of(server=entry.name)) for entry in entries}
    document = [{"server": entry, "open_obligations": owed[entry.name]} for entry in entries]
    app.out.result({"servers": document}, lambda: _table(entries, owed))


@server.command(examples=("holdfast server show lab",))
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """One server, its VMs now, and what crashed sessions left on it."""
    from holdfast_manager.enrolment.servers import connected_driver

    entry = app.catalog.servers.get(name)
    owed = app.catalog.obligations.open_of(server=name)
    with connected_driver(app.host, entry, app.catalog.servers.secret(name)) as driver:
        vms = sorted(driver.list_vms(), key=lambda vm: (vm.name, vm.vm_id))
    document = {"server": entry, "vms": vms, "obligations": owed}
    lines = [
        ("Server", entry.name),
        ("Plugin", entry.plugin),
        ("Options", "\n".join(f"{key} = {value}" for key, value in sorted(entry.options.items())) or "-"),
        ("Credentials", "kept sealed" if entry.has_secret else "none"),
        ("Left behind", f"{counted(len(owed), 'thing')}; `holdfast server clean {name}` removes them" if owed else "-"),
    ]
    rows = [(vm.name, vm.vm_id) for vm in vms]
    vm_text = indented(table(("VM", "id"), rows)) if rows else "  none"
    app.out.result(document, f"{facts(lines)}\n\nVMs\n{vm_text}")


@server.command(examples=("holdfast server remove lab",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Forget a server and its credentials. Its restore points stay."""
    app.catalog.servers.remove(name)
    app.out.result({"removed": name}, f"Removed server {name}")


@server.command(examples=("holdfast server clean lab",))
@click.argument("name")
@pass_app
def clean(app: App, name: str) -> int:
    """Remove what crashed sessions left on a server: snapshots, frozen guests, half-made VMs.

    Every session does the same before it begins; this is for when none is due. Exits with 1 when something could not
    be removed; it stays written down.
    """
    from holdfast_manager.enrolment import servers

    removed, complaints = servers.clean(app.host, app.catalog, name)
    document = {"removed": removed, "failed": complaints}
    lines = [f"Removed {counted(removed, 'thing')} from {name}" if removed else f"Nothing removed from {name}"]
    app.out.result(document, "\n".join([*lines, *(f"  ! {complaint}" for complaint in complaints)]))
    return 1 if complaints else 0


def option_table(texts: tuple[str, ...], option: str) -> dict[str, Any]:
    """KEY=VALUE arguments as the table that a plugin's schema is checked against."""
    return {key: _value(text) for key, text in pairs(texts, option).items()}


def _value(text: str) -> Any:
    """What TOML would read, if it is a number, a truth value, a list or quoted; text as it stands otherwise."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _table(entries: tuple[ServerEntry, ...], owed: dict[str, int]) -> str:
    if not entries:
        return "No servers yet; `holdfast server add` adds one"
    rows = [
        (
            entry.name,
            entry.plugin,
            " ".join(f"{key}={value}" for key, value in sorted(entry.options.items())),
            str(owed[entry.name]) if owed[entry.name] else "-",
        )
        for entry in entries
    ]
    return table(("server", "plugin", "options", "left behind"), rows, fold=("options",))
