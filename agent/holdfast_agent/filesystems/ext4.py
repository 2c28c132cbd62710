"""ext4: free blocks by its own bitmaps. Facts: https://docs.kernel.org/filesystems/ext4/ .

Believed only where the file system was unmounted or frozen (fsfreeze writes everything out and leaves the journal
empty), and where every checksum on the way is right: without ``metadata_csum`` nothing is left out.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from holdfast_agent.model.geometry import Extent

from .crc32c import crc32c
from .reading import MAX_READ_BYTES, Doubt, Volume, check_features, check_shape

_SUPERBLOCK, _SUPERBLOCK_BYTES = 1024, 1024
_MAGIC = b"\x53\xef"
_CLEAN, _ERRORS = 1, 2
_NEEDS_RECOVERY, _64BIT, _CSUM_SEED = 0x4, 0x80, 0x2000
_METADATA_CSUM, _ORPHANS = 0x400, 0x10000
# Only what is known not to change where free blocks are told: no meta_bg, no bigalloc, no journal device.
_KNOWN_COMPATIBLE = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x200 | 0x400 | 0x800 | 0x1000
_KNOWN_INCOMPATIBLE = 0x2 | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | _CSUM_SEED | 0x4000 | 0x8000 | 0x10000 | 0x20000
_KNOWN_READ_ONLY = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x100 | _METADATA_CSUM | 0x1000 | 0x2000 | 0x8000
_BLOCK_UNINIT = 2
_FREE = re.compile(rb"\x00+")


def is_ext4(volume: Volume) -> bool:
    """Also ext2 and ext3, which :func:`unused` then doubts."""
    return volume.has(_SUPERBLOCK + 56, _MAGIC)


def unused(volume: Volume) -> Iterator[Extent]:
    """Free blocks in bytes of the volume, ascending, eight blocks at a time: the rest of a run is told as used.

    Raises :class:`Doubt`, also behind some extents, which do not count then, and errors of the disk.
    """
    layout = _layout(volume.read(_SUPERBLOCK, _SUPERBLOCK_BYTES), volume)
    groups = _groups(volume, layout)
    metadata = _Ranges(
        [Extent(group.block_bitmap, 1) for group in groups]
        + [Extent(group.inode_bitmap, 1) for group in groups]
        + [Extent(group.inode_table, layout.inode_table_blocks) for group in groups]
    )
    for number, group in enumerate(groups):
        first = layout.first_block + number * layout.group_blocks
        count = min(layout.group_blocks, layout.blocks - first)
        if group.flags & _BLOCK_UNINIT:
            # It has no bitmap yet: all is free but its copies of the descriptors and metadata of any group.
            backups = min(layout.backup_blocks, count)
            free = metadata.gaps(first + backups, first + count)
        else:
            free = _free_in_bitmap(volume, layout, group, first, count)
        for extent in free:
            yield Extent(extent.start * layout.block_bytes, extent.length * layout.block_bytes)


class _Layout(NamedTuple):
    """Blocks are counted from the volume's start. ``backup_blocks``: superblock, descriptors and room for more."""

    block_bytes: int
    blocks: int
    first_block: int
    group_blocks: int
    groups: int
    descriptor_bytes: int
    inode_table_blocks: int
    backup_blocks: int
    seed: int


class _Group(NamedTuple):
    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_blocks: int
    flags: int
    bitmap_checksum: int


class _Superblock:
    """Numbers of the superblock by their offsets; see :func:`_check`."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.compatible, self.incompatible, self.read_only = self.u32(0x5C), self.u32(0x60), self.u32(0x64)

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.raw[offset : offset + 4], "little")

    def u16(self, offset: int) -> int:
        return int.from_bytes(self.raw[offset : offset + 2], "little")


def _check(block: _Superblock) -> None:
    """Raises :class:`Doubt` where bitmaps cannot be believed, by what the file system says of itself."""
    if not block.read_only & _METADATA_CSUM or block.raw[0x175] != 1:
        raise Doubt("its metadata has no checksums")
    if crc32c(block.raw[:0x3FC]) != block.u32(0x3FC):
        raise Doubt("the checksum of its superblock is wrong")
    if block.incompatible & _NEEDS_RECOVERY or block.read_only & _ORPHANS:
        raise Doubt("it was mounted and not frozen, so its journal may know better than its bitmaps")
    if block.u16(0x3A) != _CLEAN:
        raise Doubt("it was not unmounted cleanly, or has errors")
    check_features(
        block.compatible & ~_KNOWN_COMPATIBLE,
        block.incompatible & ~_KNOWN_INCOMPATIBLE,
        block.read_only & ~_KNOWN_READ_ONLY,
    )
    if block.u32(0x4C) != 1:
        raise Doubt("it is of an unknown revision")


def _layout(raw: bytes, volume: Volume) -> _Layout:
    block = _Superblock(raw)
    _check(block)
    block_bytes = 1024 << min(block.u32(0x18), 16)
    wide = bool(block.incompatible & _64BIT)
    blocks = block.u32(0x4) | (block.u32(0x150) << 32 if wide else 0)
    first, group_blocks = block.u32(0x14), block.u32(0x20)
    inodes, inode_bytes = block.u32(0x28), block.u16(0x58)
    descriptor_bytes = block.u16(0xFE) if wide else 32
    possible = (
        block_bytes <= 65536 and block.u32(0x1C) == block.u32(0x18),
        group_blocks == block.u32(0x24) == 8 * block_bytes,
        first == (block_bytes == 1024),
        descriptor_bytes == (64 if wide else 32),
        inodes > 0 and 128 <= inode_bytes <= block_bytes,
        first < blocks <= volume.extent.length // block_bytes,
    )
    check_shape("its superblock", possible)
    groups = -(-(blocks - first) // group_blocks)
    descriptors = -(-groups * descriptor_bytes // block_bytes)
    if groups * descriptor_bytes > MAX_READ_BYTES:
        raise Doubt("it is larger than what is looked at")
    return _Layout(
        block_bytes=block_bytes,
        blocks=blocks,
        first_block=first,
        group_blocks=group_blocks,
        groups=groups,
        descriptor_bytes=descriptor_bytes,
        inode_table_blocks=-(-inodes * inode_bytes // block_bytes),
        backup_blocks=1 + descriptors + block.u16(0xCE),
        seed=block.u32(0x270) if block.incompatible & _CSUM_SEED else crc32c(raw[0x68:0x78]),
    )


def _groups(volume: Volume, layout: _Layout) -> list[_Group]:
    size = layout.descriptor_bytes
    table = volume.read((layout.first_block + 1) * layout.block_bytes, layout.groups * size)
    return [_group(table[at : at + size], number, layout) for number, at in enumerate(range(0, len(table), size))]


def _group(raw: bytes, number: int, layout: _Layout) -> _Group:
    plain = crc32c(raw[:0x1E] + bytes(2) + raw[0x20:], crc32c(number.to_bytes(4, "little"), layout.seed))
    low = struct.unpack_from("<IIIHHHHIHHHH", raw)
    if plain & 0xFFFF != low[11]:
        raise Doubt(f"the checksum of its block group {number} is wrong")
    high = struct.unpack_from("<IIIHHHHIHHI", raw, 32) if len(raw) == 64 else (0,) * 11
    group = _Group(
        low[0] | high[0] << 32,
        low[1] | high[1] << 32,
        low[2] | high[2] << 32,
        low[3] | high[3] << 16,
        low[6],
        low[8] | high[8] << 16,
    )
    ends = (group.block_bitmap + 1, group.inode_bitmap + 1, group.inode_table + layout.inode_table_blocks)
    if max(ends) > layout.blocks:
        raise Doubt(f"its block group {number} refers to something beyond its end")
    return group


def _free_in_bitmap(volume: Volume, layout: _Layout, group: _Group, first: int, count: int) -> Iterator[Extent]:
    bitmap = volume.read(group.block_bitmap * layout.block_bytes, layout.block_bytes)
    mask = 0xFFFFFFFF if layout.descriptor_bytes == 64 else 0xFFFF
    if _checksum(bitmap, layout.seed) & mask != group.bitmap_checksum:
        raise Doubt(f"the checksum of its block bitmap at block {first} is wrong")
    if 8 * len(bitmap) - int.from_bytes(bitmap, "little").bit_count() != group.free_blocks:
        raise Doubt(f"its block bitmap at block {first} has another number of free blocks than it says")
    for run in _FREE.finditer(bitmap):
        length = min(run.end(), count // 8) - run.start()
        if length > 0:
            yield Extent(first + 8 * run.start(), 8 * length)


@lru_cache(64)  # most bitmaps are all free or all used
def _checksum(bitmap: bytes, seed: int) -> int:
    return crc32c(bitmap, seed)


class _Ranges:
    """Blocks in use, merged."""

    def __init__(self, extents: list[Extent]) -> None:
        self._merged: list[Extent] = []
        for extent in sorted(extents):
            if self._merged and extent.start <= self._merged[-1].end:
                last = self._merged.pop()
                extent = Extent(last.start, max(last.end, extent.end) - last.start)
            self._merged.append(extent)

    def gaps(self, start: int, end: int) -> Iterator[Extent]:
        """What of ``[start, end)`` is in none of them."""
        for extent in self._merged[max(0, bisect_right(self._merged, start, key=lambda extent: extent.start) - 1) :]:
            if extent.start >= end:
                break
            if extent.start > start:
                yield Extent(start, extent.start - start)
            start = max(start, extent.end)
        if start < end:
            yield Extent(start, end - start)
