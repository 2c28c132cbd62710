"""Which blocks a source reads, which it takes for zeros and which it leaves as the base has them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent
from holdfast_agent.wire.specs import BackupOrder

from .conversation import Run


class Fate(Enum):
    """READ: from the disk. HOLE: zeros by the disk's own word. KEEP: as in the base.

    UNUSED: zeros in the point, whatever is there, because no file system on the disk needs it.
    """

    READ = "read"
    HOLE = "hole"
    KEEP = "keep"
    UNUSED = "unused"


class Part(NamedTuple):
    """Blocks ``[first, end)`` of one fate."""

    first: int
    end: int
    fate: Fate


def plan(order: BackupOrder, allocated: Iterable[Extent], lost: Iterable[Run]) -> Iterator[Part]:
    """All blocks of the disk, ascending and each once.

    ``allocated``: extents with data, ascending, as the disk tells them; looked at only where the order names none.
    ``lost``: blocks of the base that must be read whatever the change tracker says.
    """
    geometry = order.geometry
    zeros: Iterable[Run] = ()
    if order.mode is ChangeMode.FULL:
        runs: Iterable[Run] = [(0, geometry.blocks)]
    elif order.mode is ChangeMode.CBT:
        runs = geometry.runs_of(heapq.merge(order.extents or (), sorted(_forced(order, lost))))
        zeros = geometry.runs_of(order.zeros)
    else:
        runs = geometry.runs_of(allocated if order.extents is None else order.extents)
    gap = Fate.KEEP if order.mode is ChangeMode.CBT else Fate.HOLE
    following = 0
    for first, end, fate in heapq.merge(_parts(runs, Fate.READ), _parts(zeros, Fate.HOLE), key=_place):
        if first > following:
            yield Part(following, first, gap)
        if end > max(first, following):  # what is named twice is right in either way
            yield Part(max(first, following), end, fate)
        following = max(end, following)
    if following < geometry.blocks:
        yield Part(following, geometry.blocks, gap)


def data_extents(disk: ReadableDisk) -> Iterator[Extent]:
    """What of ``disk`` may hold data, ascending, asked for as it is consumed."""
    return (Extent(extent.start, extent.length) for extent in disk.extents() if extent.data)


def leave_out(parts: Iterable[Part], unused: Iterable[Run]) -> Iterator[Part]:
    """``parts``, but what would be read of ``unused`` (ascending runs of blocks) is UNUSED."""
    runs = iter(unused)
    run = next(runs, None)
    for part in parts:
        at = part.first
        while part.fate is Fate.READ and at < part.end:
            while run is not None and sum(run) <= at:
                run = next(runs, None)
            if run is None or run[0] >= part.end:
                break
            if run[0] > at:
                yield Part(at, run[0], Fate.READ)
            following = min(sum(run), part.end)
            yield Part(max(at, run[0]), following, Fate.UNUSED)
            at = following
        if at < part.end:
            yield part._replace(first=at)


def _parts(runs: Iterable[Run], fate: Fate) -> Iterator[Part]:
    return (Part(first, first + count, fate) for first, count in runs)


def _place(part: Part) -> int:
    return part.first


def _forced(order: BackupOrder, lost: Iterable[Run]) -> Iterator[Extent]:
    """What CBT must read besides what it names: lost blocks, and where a resized disk begins to differ."""
    log2 = order.geometry.block_log2
    for first, count in lost:
        yield Extent(first << log2, count << log2)
    if order.base_geometry is not None:
        old, new = order.base_geometry.size_bytes, order.geometry.size_bytes
        if new > old:
            yield Extent(old, new - old)
        elif new < old and new:
            yield Extent(new - 1, 1)
