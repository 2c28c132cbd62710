"""What a repository holds, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast_agent.model.ids import Sid
from holdfast_agent.model.units import format_size
from holdfast_agent.wire.messages import PointSizes, Sizes, StatisticsEnded, VmSizes
from holdfast_manager.catalog.values import PointEntryRow

from .sentences import counted
from .table import facts, indented, table
from .times import moment

_SID_DIGITS = 12
_SIZE_HEADS = ("logical", "used", "unique", "stored", "metadata", "dedup", "compr", "frees")


def statistics_text(
    repository: str, found: StatisticsEnded, rows: Mapping[Sid, PointEntryRow], with_points: bool
) -> str:
    """The repository, its VMs and, if asked for, its points. ``rows``: what the catalogue knows of them, by sid."""
    points = sum(vm.points for vm in found.vms)
    parts = [totals_text(f"Repository {repository}", found.total, points, found.packs_bytes)]
    if found.vms:
        parts.append(f"VMs\n{indented(_vms(found.vms))}")
    if with_points and found.points:
        parts.append(f"Restore points\n{indented(_points(found.points, rows))}")
    if found.left_off:
        parts.append(f"{found.left_off} older points are not shown")
    return "\n\n".join(parts)


def totals_text(of: str, total: Sizes, points: int, packs_bytes: int) -> str:
    """A repository's, or a group's: what the packs hold and what of it the restore points need."""
    unneeded = max(0, packs_bytes - total.stored_bytes - total.metadata_bytes)
    dedup, compression = _ratio(dedup_ratio(total)), _ratio(compression_ratio(total))
    pairs = [
        ("Logical", f"{format_size(total.logical_bytes)} in {counted(points, 'restore point')}"),
        ("Used", f"{format_size(total.used_bytes)} of them are no holes"),
        ("Unique", f"{format_size(total.unique_bytes)} of blocks, each counted once: dedup {dedup}"),
        ("Stored", f"{format_size(total.stored_bytes)} of blocks: compression {compression}"),
        ("Metadata", format_size(total.metadata_bytes)),
        ("Packs", f"{format_size(packs_bytes)}, of which no restore point needs {format_size(unneeded)}"),
    ]
    return f"{of}\n{indented(facts(pairs))}"


def dedup_ratio(sizes: Sizes) -> float | None:
    """How often a distinct block occurs, on average; None where nothing is counted."""
    return sizes.used_bytes / sizes.unique_bytes if sizes.unique_bytes else None


def compression_ratio(sizes: Sizes) -> float | None:
    """Plain bytes of distinct blocks for each byte that they take, with their headers."""
    return sizes.unique_bytes / sizes.stored_bytes if sizes.stored_bytes else None


def _vms(vms: Sequence[VmSizes]) -> str:
    cells = [(vm.vm_name, vm.server, str(vm.points), *_cells(vm.sizes)) for vm in vms]
    return table(("VM", "server", "points", *_SIZE_HEADS), cells, right=("points", *_SIZE_HEADS))


def _points(points: Sequence[PointSizes], rows: Mapping[Sid, PointEntryRow]) -> str:
    cells = []
    for point in points:
        row = rows.get(point.sid)
        named = (row.vm_name, moment(row.created)) if row is not None else ("-", "-")
        cells.append((point.sid[:_SID_DIGITS], *named, *_cells(point.sizes)))
    return table(("point", "VM", "created", *_SIZE_HEADS), cells, right=_SIZE_HEADS)


def _cells(sizes: Sizes) -> tuple[str, ...]:
    bytes_of = (
        sizes.logical_bytes, sizes.used_bytes, sizes.unique_bytes, sizes.stored_bytes, sizes.metadata_bytes
    )  # fmt: skip
    ratios = (_ratio(dedup_ratio(sizes)), _ratio(compression_ratio(sizes)))
    return (*map(format_size, bytes_of), *ratios, format_size(sizes.freed_bytes))


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
