"""One restore point: what it is, how far it is proved, and what can be done with it."""

from __future__ import annotations

from pathlib import Path

from holdfast_agent.errors import HoldfastError, NotFound
from holdfast_agent.model.points import Point
from holdfast_agent.model.units import format_duration, format_size
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.enrolment.points import read_point
from holdfast_manager.reports.html import Html, element, html_facts, html_table, joined
from holdfast_manager.reports.times import moment
from holdfast_manager.rights.roles import Right

from ..layout import page
from ..parts import badge, card, command, link, point_badges, scrolled, trouble
from ..visit import Visit, address

_MOST_PICTURE_BYTES = 16 << 20
_PNG = b"\x89PNG\r\n\x1a\n"


def point_of(visit: Visit) -> PointEntryRow:
    """The one that the address names. Raises ``NotFound``."""
    return visit.catalog.points.get(str(visit.request.path_params["sid"]))


def trail_of(row: PointEntryRow) -> tuple[tuple[str, str], ...]:
    """The pages above those of a point."""
    return ("/vms", "VMs"), (address("/vm", server=row.server, id=row.vm_id), row.vm_name)


def point(visit: Visit) -> str:
    """``/points/{sid}``"""
    row = point_of(visit)
    files = link(f"/points/{row.sid}/files", "Browse its files", class_="action") if visit.may(Right.RESTORE) else ""
    return page(
        visit,
        f"{row.vm_name}, {moment(row.created)}",
        element("p", point_badges(row), class_="outcome"),
        element("p", files) if files else "",
        card("About", html_facts(_facts(visit, row))),
        card("Proof", *_proof(visit, row)),
        card("Disks", _disks(visit, row)),
        card("Restore", *_commands(row)),
        place="/vms",
        trail=trail_of(row),
    )


def picture(visit: Visit) -> bytes:
    """``/points/{sid}/screen``: what the boot proof saw. Raises ``NotFound``."""
    row = point_of(visit)
    visit.require(Right.RESTORE, "see the screen of a VM")
    missing = NotFound(kind="screen of restore point", name=row.sid)
    if row.boot is None or not row.boot.picture:
        raise missing
    path = Path(row.boot.picture)
    if path.parent != visit.console.settings.proof_dir:
        raise missing
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_PICTURE_BYTES)
    except OSError as error:
        raise missing from error
    if not content.startswith(_PNG):
        raise missing
    return content


def _facts(visit: Visit, row: PointEntryRow) -> list[tuple[str, str]]:
    session = (
        joined(", ", link(f"/sessions/{row.session}", f"session {row.session}")) if row.session is not None else ""
    )
    origin = [("Copy of", row.origin.sid)] if row.origin is not None else []
    kept = [("Kept until", moment(row.retained_until))] if row.retained_until else []
    held = [("Held", "no retention removes it until somebody lifts that")] if row.held else []
    return [
        ("Id", element("code", row.sid)),
        ("VM", joined(link(address("/vm", server=row.server, id=row.vm_id), row.vm_name), f" of server {row.server}")),
        ("Made", moment(row.created)),
        ("Job", joined(row.job or "-", session)),
        ("Repository", link(f"/storage/{row.repository}", row.repository)),
        ("Size", f"{format_size(row.size_bytes)}, of which {format_size(row.stored_bytes)} were new and stored"),
        ("Consistency", row.consistency),
        *origin,
        *kept,
        *held,
    ]


def _proof(visit: Visit, row: PointEntryRow) -> list[Html]:
    facts: list[tuple[str, str]] = []
    if row.doubt:
        facts.append(("Doubt", joined(badge("doubted", "warning"), f" {row.doubt}")))
    read = "never" if row.verified is None else f"every block of it was read and compared, {moment(row.verified)}"
    facts.append(("Verified", read))
    boot = row.boot
    if boot is None:
        facts.append(("Boot", "never tried; holdfast verify boot does it"))
        return [html_facts(facts)]
    told = f"{boot.reason}, after {format_duration(boot.seconds)}"
    mark = badge("boots", "good") if boot.proved else badge("did not boot", "error")
    facts.append(
        ("Boot", joined(mark, f" {told} ({moment(boot.at)}, ", link(f"/sessions/{boot.session}", "session"), ")"))
    )
    if not boot.proved and row.booted is not None:
        facts.append(("Booted before", moment(row.booted)))
    if not boot.picture or not visit.may(Right.RESTORE):
        return [html_facts(facts)]
    screen = element(
        "img", src=f"/points/{row.sid}/screen", alt=f"The VM's screen at the end of its boot: {boot.reason}"
    )
    caption = element("figcaption", "Its screen at the end of the proof")
    return [html_facts(facts), element("figure", screen, caption, class_="screen")]


def _disks(visit: Visit, row: PointEntryRow) -> Html:
    try:
        found: Point = read_point(visit.catalog, row, visit.console.keys)
    except HoldfastError as error:
        return trouble(error)
    heads = ("disk", "id", "size", "blocks", "read by", "why")
    cells = [
        (disk.name, disk.disk_id, format_size(disk.size_bytes), format_size(1 << disk.block_log2), disk.mode.value,
         disk.reason)
        for disk in found.disks
    ]  # fmt: skip
    return scrolled(html_table(heads, cells, ("size", "blocks"), "Disks of the restore point"), "Disks")


def _commands(row: PointEntryRow) -> list[Html]:
    short = row.sid[:12]
    return [
        element("p", "As a VM of a server, beside the one that is there, or one disk of it to a file:"),
        command(f"holdfast restore vm --point {short} --server {row.server} --name NEW-NAME"),
        command(f"holdfast restore disk --point {short} --to /srv/restored/disk.raw"),
        element("p", "Files and whole folders, to a folder of a proxy:"),
        command(f"holdfast restore files {short}:/etc /srv/restored"),
    ]
