"""`holdfast server …`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from holdfast_agent.errors import AlreadyExists
from holdfast_agent.model import strict
from holdfast_manager.catalog.values import ServerEntry, ServerLimits
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import facts, indented, table

from .app import App, pass_app
from .asking import credentials
from .commands import Group, pairs


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
@click.option("--max-tasks", "tasks", type=int, help="Tasks of all jobs at once on it. Default: no limit.")
@click.option("--max-tasks-per-host", "tasks_per_host", type=int, help="The same on each of its hosts.")
@click.option("--max-latency", "latency_ms", type=float, help="No task starts on a datastore that takes longer (ms).")
@click.option("--throttle-latency", "throttle_latency_ms", type=float, help="Above it (ms) tasks are slowed down.")
@click.option("--max-tasks-per-datastore", "tasks_per_datastore", type=int, help="The same on each of its datastores.")
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
    told = strict.convert({key: limit for key, limit in limits.items() if limit is not None}, ServerLimits, "options")
    limited = None if told == ServerLimits() else told
    entry = ServerEntry(name=name, plugin=plugin, options=option_table(options, "--option"), limits=limited)
    app.host.check_options(Family.HYPERVISOR, plugin, entry.options, f"options of server {name!r}")
    secret = credentials(app, secrets, secret_file)
    vms = try_server(app.host, entry, secret, lacking_rights)
    app.catalog.servers.add(entry, secret or None)
    app.out.result(
        {"server": app.catalog.servers.get(name), "vms": vms}, f"Added server {name}: {counted(len(vms), 'VM')}"
    )


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
    return table(("server", "plugin", "options", "left behind"), rows)
