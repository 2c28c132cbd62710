"""Which blocks a source reads, which it takes for zeros and which it leaves as the base has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.wire.specs import BackupOrder

from .conversation import Run


class Fate(Enum):
    """READ: from the disk. HOLE: zeros by the disk's own word. KEEP: as in the base."""

    READ = "read"
    HOLE = "hole"
    KEEP = "keep"


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
    if order.mode is ChangeMode.FULL:
        runs: Iterable[Run] = [(0, geometry.blocks)]
    elif order.mode is ChangeMode.CBT:
        extents = sorted([*(order.extents or ()), *_forced(order, lost)])
        runs = _touched(extents, geometry)
    else:
        runs = _touched(allocated if order.extents is None else order.extents, geometry)
    gap = Fate.KEEP if order.mode is ChangeMode.CBT else Fate.HOLE
    following = 0
    for first, count in runs:
        if first > following:
            yield Part(following, first, gap)
        if count:
            yield Part(first, first + count, Fate.READ)
        following = first + count
    if following < geometry.blocks:
        yield Part(following, geometry.blocks, gap)


def _touched(extents: Iterable[Extent], geometry: Geometry) -> Iterator[Run]:
    """Runs of blocks that ascending extents touch; costs by the number of extents, not by their length."""
    start = end = 0
    for extent in extents:
        if extent.length <= 0 or extent.start >= geometry.size_bytes:
            continue
        first = extent.start >> geometry.block_log2
        last = (min(extent.end, geometry.size_bytes) - 1) >> geometry.block_log2
        if first > end:
            if end > start:
                yield start, end - start
            start = first
        end = max(end, last + 1)
    if end > start:
        yield start, end - start


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
