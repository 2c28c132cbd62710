"""By which order a disk is really read: as it was given, or turned to another mode because tracking failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from holdfast_agent.disks.disk import DiskExtent, ReadableDisk, changed_extents
from holdfast_agent.errors import ChangeTrackingLost, UsageError
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import MOST_EXTENTS, Extent, Geometry, coalesced
from holdfast_agent.model.units import format_size
from holdfast_agent.wire.specs import BackupOrder

from .stages import Tally


class Course(NamedTuple):
    """The order to follow, and in one sentence for people why it is another than was given (empty: it is not)."""

    order: BackupOrder
    reason: str = ""


def check_extents(order: BackupOrder) -> None:
    """Raises :class:`UsageError` where a backup by the extents of ``order`` would pass blocks over."""
    try:
        for extents in (order.extents or (), order.zeros):
            for _run in order.geometry.runs_of(extents):
                pass
    except ValueError as error:
        raise UsageError(reason=str(error)) from error


def by_bitmap(order: BackupOrder, disk: ReadableDisk) -> Course:
    """``order`` with the extents that the disk's bitmap tells, or the mode to fall to without it.

    Run in a worker: it asks for the whole bitmap. Raises :class:`ChangeTrackingLost` where nothing is to be fallen to,
    and :class:`DiskUnreadable`.
    """
    try:
        changes, zeros = _told(changed_extents(disk), order.geometry)
        return Course(msgspec.structs.replace(order, extents=changes, zeros=zeros))
    except ChangeTrackingLost as error:
        if order.on_loss is None:
            raise
        turned = msgspec.structs.replace(order, mode=order.on_loss)
        return Course(turned, f"change tracking is lost ({error.text})")


def _told(extents: Iterable[DiskExtent], geometry: Geometry) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
    """What must be read, and whole blocks that need not be, because the disk says that they are zeros."""
    zeros: list[Extent] = []

    def read() -> Iterator[Extent]:
        for extent in extents:
            whole = None if extent.data else _whole_blocks(extent, geometry)
            if whole is None or len(zeros) == MOST_EXTENTS:
                yield Extent(extent.start, extent.length)
                continue
            zeros.append(whole)
            yield Extent(extent.start, whole.start - extent.start)
            yield Extent(whole.end, extent.start + extent.length - whole.end)

    return coalesced(read(), geometry), tuple(zeros)


def _whole_blocks(extent: DiskExtent, geometry: Geometry) -> Extent | None:
    """The blocks that lie wholly in ``extent``; the last of the disk ends with it."""
    end = min(extent.start + extent.length, geometry.size_bytes)
    first = -(-extent.start >> geometry.block_log2)
    following = geometry.blocks if end == geometry.size_bytes else end >> geometry.block_log2
    if first >= following:
        return None
    start = first << geometry.block_log2
    return Extent(start, min(following << geometry.block_log2, end) - start)


def after_audit(order: BackupOrder, first_missed: int, tally: Tally) -> Course:
    """The course once the audit has found what the tracker did not tell: nothing is taken on its word any more."""
    place = format_size(first_missed << order.geometry.block_log2)
    share = f"{tally.missed} of {tally.audited} audited blocks, the first at {place}"
    if order.mode is ChangeMode.CBT:
        turned = msgspec.structs.replace(order, mode=ChangeMode.DIGEST, extents=None, zeros=())
        return Course(turned, f"change tracking missed changes ({share}); the whole disk was compared")
    turned = msgspec.structs.replace(order, extents=None)
    return Course(turned, f"change tracking called data unused ({share}); the disk itself was asked")
