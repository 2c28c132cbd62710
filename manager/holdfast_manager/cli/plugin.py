"""`holdfast plugin …`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from holdfast_agent.errors import HoldfastError, NotFound, from_record
from holdfast_manager.host import PluginReport, PluginStatus
from holdfast_manager.reports.table import facts, indented, table

from .app import App, pass_app
from .commands import Group
from .plugin_project import KINDS, make_project


@click.group(cls=Group)
def plugin() -> None:
    """Plugins: hypervisors, guest processors, change trackers and notifiers."""


@plugin.command("list", examples=("holdfast plugin list",))
@pass_app
def list_(app: App) -> None:
    """All plugins: what each provides, and why one could not be loaded."""
    reports = app.host.report()
    rows: list[tuple[str, str, str, str]] = []
    for report in reports:
        first, *more = [f"{each.family.value} {each.name}: {each.summary}" for each in report.provides] or [
            report.error.message if report.error is not None else "-"
        ]
        rows.append((report.name, report.status.value, report.origin, first))
        rows += [("", "", "", line) for line in (*more, *(f"! {warning}" for warning in report.warnings))]
    app.out.result(
        {"plugins": reports}, lambda: table(("plugin", "state", "from", "provides"), rows, fold=("provides",))
    )


@plugin.command(examples=("holdfast plugin check images", "holdfast plugin check onevm --server lab"))
@click.argument("name")
@click.option("--server", help="Also connect to this server, list and describe its VMs, and change nothing.")
@pass_app
def check(app: App, name: str, server: str | None) -> None:
    """Load one plugin and say what it provides, with all its options; or why it cannot be loaded.

    What a plugin promises beyond that, its author's tests prove: `holdfast plugin new` writes the first of them.
    """
    report = _report_of(app, name)
    if report.error is not None:
        raise from_record(report.error)
    seen = _try_server(app, report, server) if server is not None else None
    options = {each.name: _options(app, report, each.name) for each in report.provides}
    document = {"plugin": report, "options": options, "server": seen}
    app.out.result(document, lambda: _told(report, options, seen))


@plugin.command(
    examples=("holdfast plugin new onevm --kind hypervisor", "holdfast plugin new mydb --kind guest-processor")
)
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What the plugin provides.")
@click.option(
    "--directory", type=click.Path(path_type=Path), metavar="DIR", help="Where to; default: ./holdfast-NAME, made new."
)
@pass_app
def new(app: App, name: str, kind: str, directory: Path | None) -> None:
    """Write a new plugin: a project that can be installed, with a first version that works, and its tests.

    What it has of Holdfast's own tests grows with it: they say what a backup relies on.
    """
    place = directory or Path(f"holdfast-{name}")
    files = make_project(name, kind, place)
    listed = "\n".join(f"  {file}" for file in files)
    app.out.result(
        {"directory": str(place), "files": files},
        f"Wrote {place}:\n{listed}\n\nNext, in an environment that has Holdfast:\n"
        f"  pip install --editable '{place}[test]'\n  pytest {place}\n  holdfast plugin check {name}",
    )


def _report_of(app: App, name: str) -> PluginReport:
    reports = {report.name: report for report in app.host.report()}
    if name not in reports:
        raise NotFound(kind="plugin", name=name, advice="`holdfast plugin list` shows all; is it installed here?")
    report = reports[name]
    if report.status is PluginStatus.DISABLED:
        advice = "It is left out by plugins.disabled in the manager's configuration"
        raise NotFound(kind="plugin that is loaded", name=name, advice=advice)
    return report


def _options(app: App, report: PluginReport, provided: str) -> list[dict[str, Any]]:
    """Each option with its type and its default, as its schema has them; None stands for no default."""
    family = next(each.family for each in report.provides if each.name == provided)
    hypervisor = next(each.hypervisor for each in report.provides if each.name == provided)
    options_type = app.host.options_type(family, provided, hypervisor)
    return [
        {
            "name": field.encode_name,
            "type": _type_name(field.type),
            "required": field.required,
            "default": None if field.required else msgspec.to_builtins(_default(field)),
        }
        for field in msgspec.structs.fields(options_type)
    ]


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _try_server(app: App, report: PluginReport, server: str) -> dict[str, Any]:
    from holdfast_manager.enrolment.servers import connected_driver

    entry = app.catalog.servers.get(server)
    if entry.plugin not in {each.name for each in report.provides}:
        raise NotFound(kind=f"server of the plugin {report.name}", name=server, advice=f"It is one of {entry.plugin}")
    described: list[dict[str, Any]] = []
    with connected_driver(app.host, entry, app.catalog.servers.secret(server)) as driver:
        for vm in sorted(driver.list_vms(), key=lambda vm: (vm.name, vm.vm_id)):
            try:
                info = driver.vm_info(vm)
                sizes = [disk.size_bytes for disk in info.disks]
                described.append({"vm": vm, "disks": len(sizes), "size_bytes": sum(sizes), "error": None})
            except HoldfastError as error:
                described.append({"vm": vm, "disks": 0, "size_bytes": 0, "error": error.to_record()})
    return {"name": server, "vms": described}


def _told(report: PluginReport, options: dict[str, list[dict[str, Any]]], seen: dict[str, Any] | None) -> str:
    parts = [facts([("Plugin", report.name), ("From", report.origin), ("State", report.status.value)])]
    parts += [f"! {warning}" for warning in report.warnings]
    for each in report.provides:
        rows = [
            (option["name"], option["type"], "required" if option["required"] else repr(option["default"]))
            for option in options[each.name]
        ]
        body = indented(table(("option", "type", "default"), rows)) if rows else "  no options"
        parts.append(f"{each.family.value} {each.name}: {each.summary}\n{body}")
    if seen is not None:
        rows = [
            (entry["vm"].name, str(entry["disks"]), entry["error"].message if entry["error"] else "described")
            for entry in seen["vms"]
        ]
        parts.append(
            f"Server {seen['name']}\n{indented(table(('VM', 'disks', 'outcome'), rows)) if rows else '  no VMs'}"
        )
    return "\n\n".join(parts)
