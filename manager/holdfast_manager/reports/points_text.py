"""Restore points as text."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.model.points import Point
from holdfast_agent.model.units import format_duration, format_size
from holdfast_manager.catalog.values import PointEntryRow

from .table import facts, indented, table
from .times import moment

_SID_DIGITS = 12  # 48 bits: unique among any number of points that somebody could look through


def points_text(rows: Sequence[PointEntryRow]) -> str:
    """The table of `point list`, newest first."""
    if not rows:
        return "No restore points; `holdfast job run NAME` makes some"
    heads = ("point", "VM", "created", "size", "stored", "consistency", "state", "job", "repository")
    cells = [
        (
            row.sid[:_SID_DIGITS],
            row.vm_name,
            moment(row.created),
            format_size(row.size_bytes),
            format_size(row.stored_bytes),
            row.consistency,
            state_of(row),
            row.job or "-",
            row.repository,
        )
        for row in rows
    ]
    return table(heads, cells, right=("size", "stored"), fold=("state",))


def point_text(row: PointEntryRow, point: Point | None) -> str:
    """All about one point; ``point`` None: its repository could not be asked for the disks."""
    pairs = [
        ("VM", f"{row.vm_name} of server {row.server}" + (f" (id {row.vm_id})" if row.vm_id != row.vm_name else "")),
        ("Created", moment(row.created)),
        ("Job", (row.job or "-") + (f", session {row.session}" if row.session is not None else "")),
        ("Repository", row.repository),
        ("Size", f"{format_size(row.size_bytes)}, of which {format_size(row.stored_bytes)} were new and stored"),
        *_origin(row),
        ("Consistency", row.consistency),
        ("State", state_of(row)),
        *([("Doubt", row.doubt)] if row.doubt else []),
        *_boot(row),
    ]
    text = f"Restore point {row.sid}\n{indented(facts(pairs))}"
    if point is None:
        return text
    disks = [
        (disk.name, disk.disk_id, format_size(disk.size_bytes), format_size(1 << disk.block_log2), disk.mode.value,
         disk.reason)
        for disk in point.disks
    ]  # fmt: skip
    heads = ("disk", "id", "size", "blocks", "mode", "reason")
    return f"{text}\n\nDisks\n{indented(table(heads, disks, right=('size', 'blocks'), fold=('reason',)))}"


def _origin(row: PointEntryRow) -> list[tuple[str, str]]:
    if row.origin is None:
        return []
    return [("Copy of", f"{row.origin.sid}, in the repository with the id {row.origin.repository_id}")]


def _boot(row: PointEntryRow) -> list[tuple[str, str]]:
    boot = row.boot
    if boot is None:
        return []
    told = f"{boot.reason} after {format_duration(boot.seconds)}" if boot.proved else f"failed: {boot.reason}"
    lines = [f"{told} ({moment(boot.at)}, session {boot.session})"]
    if not boot.proved and row.booted is not None:
        lines.append(f"it came up before, {moment(row.booted)}")
    if boot.picture:
        lines.append(f"its screen: {boot.picture}")
    return [("Boot proof", "\n".join(lines))]


def state_of(row: PointEntryRow) -> str:
    """ "ok, verified, protected": all that the catalogue knows of a point's standing."""
    words = [row.state.value]
    if row.origin is not None:
        words.append("copy")  # of which `point show` tells
    if row.verified is not None:
        words.append("verified")
    if row.boot is not None:
        words.append("proven to boot" if row.boot.proved else "did not boot")
    if row.held:
        words.append("protected")
    if row.retained_until:
        words.append(f"kept until {moment(row.retained_until)}")
    if row.undo_until is not None:
        words.append(f"pruned, undo until {moment(row.undo_until)}")
    return ", ".join(words)
