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

    def blocks_of(self, extents: Iterable[Extent]) -> Iterator[int]:
        """Numbers of all blocks that the extents touch, ascending and each once.

        ``extents`` must ascend by start; they may overlap, and what lies past the disk's end is cut off.
        """
        following = 0
        for extent in extents:
            if extent.length <= 0 or extent.start >= self.size_bytes:
                continue
            first = max(following, extent.start >> self.block_log2)
            last = (min(extent.end, self.size_bytes) - 1) >> self.block_log2
            yield from range(first, last + 1)
            following = max(following, last + 1)
