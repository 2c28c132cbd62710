"""How a disk is cut into blocks.

Blocks are of one fixed size (a power of two); block ``n`` covers ``[n << log2, (n + 1) << log2)``. A disk that
does not end on a block boundary is treated as if zeros followed it: the last block is hashed and stored padded
to full size, and a restore cuts at the disk's size. So growing a disk changes no block that did not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

DEFAULT_BLOCK_LOG2 = 20
MIN_BLOCK_LOG2 = 16
MAX_BLOCK_LOG2 = 22
MOST_EXTENTS = 1 << 18
"""What :func:`coalesced` leaves at most: some 5 MiB in an order, 30 MiB in a mover."""


class Extent(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A half-open range ``[start, start + length)`` of bytes."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class Geometry(msgspec.Struct, frozen=True):
    """Size of a disk in bytes and the binary logarithm of its block size (16 … 22; 20 = 1 MiB)."""

    size_bytes: int
    block_log2: int = DEFAULT_BLOCK_LOG2

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            raise ValueError("a disk cannot have a negative size")
        if not MIN_BLOCK_LOG2 <= self.block_log2 <= MAX_BLOCK_LOG2:
            raise ValueError(f"block_log2 must be {MIN_BLOCK_LOG2} to {MAX_BLOCK_LOG2}")

    @property
    def block_bytes(self) -> int:
        return 1 << self.block_log2

    @property
    def blocks(self) -> int:
        """Number of blocks, the last possibly covering less than a whole block of the disk."""
        return (self.size_bytes + self.block_bytes - 1) >> self.block_log2

    def extent(self, block: int) -> Extent:
        """The bytes of the disk that ``block`` covers, cut at the disk's end."""
        start = block << self.block_log2
        return Extent(start, min(self.block_bytes, self.size_bytes - start))

    def runs_of(self, extents: Iterable[Extent]) -> Iterator[tuple[int, int]]:
        """(first block, number of blocks) of all blocks that the extents touch, ascending, neighbours together.

        ``extents`` ascend by start; they may overlap, and what lies past the disk's end is cut off. Costs by their
        number, not by their length. Raises ValueError where they do not ascend: a block that was passed over would be
        missing from a backup.
        """
        start = end = previous = 0
        for extent in extents:
            if extent.start < previous:
                raise ValueError(f"the extents do not ascend at {extent.start}")
            previous = extent.start
            if extent.length <= 0 or extent.start >= self.size_bytes:
                continue
            first = extent.start >> self.block_log2
            last = (min(extent.end, self.size_bytes) - 1) >> self.block_log2
            if first > end:
                if end > start:
                    yield start, end - start
                start = first
            end = max(end, last + 1)
        if end > start:
            yield start, end - start


def coalesced(extents: Iterable[Extent], geometry: Geometry, most: int = MOST_EXTENTS) -> tuple[Extent, ...]:
    """The blocks that ascending extents touch as at most ``most`` extents of whole blocks, ascending, none adjacent.

    Of scattered changes without end only so many are kept apart: the narrowest gaps are closed, so that more is named
    than was given, never less. Raises ValueError where they do not ascend.
    """
    gap = 0
    kept: list[tuple[int, int]] = []
    for first, count in geometry.runs_of(extents):
        _append(kept, first, first + count, gap)
        while len(kept) > most:
            gap = 2 * gap + 1
            apart, kept = kept, []
            for start, end in apart:
                _append(kept, start, end, gap)
    log2 = geometry.block_log2
    return tuple(Extent(start << log2, min(end << log2, geometry.size_bytes) - (start << log2)) for start, end in kept)


def _append(runs: list[tuple[int, int]], start: int, end: int, gap: int) -> None:
    """Add ``[start, end)`` behind ``runs``, to the last of them if no more than ``gap`` lies between."""
    if runs and start - runs[-1][1] <= gap:
        runs[-1] = (runs[-1][0], end)
    else:
        runs.append((start, end))
