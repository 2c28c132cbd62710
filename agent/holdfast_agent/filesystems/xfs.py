"""XFS, version 5: free space by its own trees. Facts: https://docs.kernel.org/filesystems/xfs/ , "XFS Algorithms & Data
Structures" (xfs-documentation).

Believed only where its log proves that it knows nothing newer (:mod:`.xfs_log`), and where every checksum on the way is
right. Each free extent stands in two trees, by place and by size, which must tell the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from holdfast_agent.model.geometry import Extent

from . import xfs_log
from .crc32c import has_crc32c
from .reading import Doubt, Volume, check_features, check_shape
from .xfs_trees import BY_PLACE, BY_SIZE, FreeTree, Ground, Summary

_VERSION, _CHECKSUMS = 5, 0x100
# Only what is known not to change where free blocks are told: no zones, no groups of a real-time volume.
_META_UUID = 0x4
_KNOWN_READ_ONLY = 0x1 | 0x2 | 0x4 | 0x8
_KNOWN_INCOMPATIBLE = 0x1 | 0x2 | _META_UUID | 0x8 | 0x20 | 0x40 | 0x80


def is_xfs(volume: Volume) -> bool:
    """Of any version; what is not 5 is doubted by :func:`unused`."""
    return volume.has(0, b"XFSB")


def unused(volume: Volume) -> Iterator[Extent]:
    """Free extents in bytes of the volume, ascending. Raises :class:`Doubt`, also behind the last, and disk errors."""
    shape = _shape(volume)
    log = xfs_log.read_state(volume, shape.log, shape.log_uuid)
    ground = Ground(volume, shape.block_bytes, shape.uuid, log.last_lsn)
    counted = 0
    for number in range(shape.groups):
        group = _group(shape, ground, number)
        counted += group.accounted_blocks
        for start, length in _free(ground, group):
            extent = Extent(group.start + start * shape.block_bytes, length * shape.block_bytes)
            if extent.start < shape.log.end and shape.log.start < extent.end:
                raise Doubt("its log lies in free space")
            yield extent
    # While it is mounted the superblock's number is not kept up.
    if log.unmounted and counted != shape.free_blocks:
        raise Doubt("its superblock has another number of free blocks than its groups")


def check_log(volume: Volume) -> None:
    """Raises :class:`Doubt` where the next mount may change more than the superblock, and errors of the disk."""
    shape = _shape(volume)
    xfs_log.read_state(volume, shape.log, shape.log_uuid)


class _Shape(NamedTuple):
    """``log`` in bytes of the volume. ``uuid``: as its metadata bears it. ``free_blocks``: of all groups."""

    block_bytes: int
    sector_bytes: int
    blocks: int
    group_blocks: int
    groups: int
    log: Extent
    log_uuid: bytes
    uuid: bytes
    free_blocks: int


class _Group(NamedTuple):
    """An allocation group. ``start`` in bytes of the volume; ``accounted_blocks``: free, on the free list, in trees."""

    number: int
    start: int
    blocks: int
    header_blocks: int
    roots: tuple[int, int]
    levels: tuple[int, int]
    free_blocks: int
    longest: int
    accounted_blocks: int


def _shape(volume: Volume) -> _Shape:
    raw = volume.read(0, 512)
    block_bytes, blocks, _, real_time_blocks = struct.unpack_from(">I3Q", raw, 4)
    (log_start,) = struct.unpack_from(">Q", raw, 48)
    group_blocks, groups, _, log_blocks, version, sector_bytes = struct.unpack_from(">4I2H", raw, 84)
    block_log, sector_log, group_log, being_made = raw[120], raw[121], raw[124], raw[126]
    (free_blocks,) = struct.unpack_from(">Q", raw, 144)
    (features,) = struct.unpack_from(">I", raw, 200)
    compatible, read_only, incompatible, log_incompatible = struct.unpack_from(">4I", raw, 208)
    if version & 0xF != _VERSION or not features & _CHECKSUMS:
        raise Doubt("its metadata has no checksums")
    check_shape("its superblock", [9 <= sector_log <= 15 and sector_bytes == 1 << sector_log])
    if not has_crc32c(volume.read(0, sector_bytes), 224):
        raise Doubt("the checksum of its superblock is wrong")
    check_features(compatible, read_only & ~_KNOWN_READ_ONLY, incompatible & ~_KNOWN_INCOMPATIBLE, log_incompatible)
    if not log_start or real_time_blocks or being_made:
        raise Doubt("it has parts elsewhere, or was not made to the end")
    log_group, log_block = log_start >> group_log, log_start & (1 << group_log) - 1
    log = Extent((log_group * group_blocks + log_block) * block_bytes, log_blocks * block_bytes)
    possible = (
        10 <= block_log <= 16 and block_bytes == 1 << block_log >= sector_bytes,
        0 < group_blocks <= 1 << group_log <= 1 << 31,
        0 < blocks <= volume.extent.length // max(block_bytes, 1),
        groups == -(-blocks // max(group_blocks, 1)),
        log.end <= blocks * block_bytes and log_block + log_blocks <= group_blocks,
    )
    check_shape("its superblock", possible)
    own = raw[248:264] if incompatible & _META_UUID else raw[32:48]
    return _Shape(block_bytes, sector_bytes, blocks, group_blocks, groups, log, raw[32:48], own, free_blocks)


def _group(shape: _Shape, ground: Ground, number: int) -> _Group:
    start = number * shape.group_blocks * shape.block_bytes
    raw = ground.volume.read(start + shape.sector_bytes, shape.sector_bytes)
    if not has_crc32c(raw, 216):
        raise Doubt(f"the checksum of its allocation group {number} is wrong")
    magic, version, own, blocks, by_place, by_size, _, *levels = struct.unpack_from(">4s8I", raw)
    listed, free_blocks, longest, in_trees = struct.unpack_from(">4I", raw, 48)
    (lsn,) = struct.unpack_from(">Q", raw, 208)
    possible = (
        (magic, version, own, raw[64:80]) == (b"XAGF", 1, number, shape.uuid),
        blocks == min(shape.group_blocks, shape.blocks - number * shape.group_blocks),
        ground.knows(lsn),
    )
    check_shape(f"its allocation group {number}", possible)
    return _Group(
        number=number,
        start=start,
        blocks=blocks,
        header_blocks=-(-4 * shape.sector_bytes // shape.block_bytes),
        roots=(by_place, by_size),
        levels=(levels[0], levels[1]),
        free_blocks=free_blocks,
        longest=longest,
        accounted_blocks=free_blocks + listed + in_trees,
    )


def _free(ground: Ground, group: _Group) -> Iterator[tuple[int, int]]:
    """(first block in the group, number of blocks), ascending."""
    by_place, by_size = (
        FreeTree(ground, kind, group.number, group.start, group.blocks, root, levels)
        for kind, root, levels in zip((BY_PLACE, BY_SIZE), group.roots, group.levels, strict=True)
    )
    told, again = Summary(), Summary()
    end = group.header_blocks - 1
    for start, length in by_place.records():
        # Neighbours would be one extent.
        if start <= end or not length or start + length > group.blocks:
            raise Doubt(f"the free space of its allocation group {group.number} is not in order")
        end = start + length
        told.add(start, length)
        yield start, length
    before = (0, 0)
    for start, length in by_size.records():
        if (length, start) <= before:
            raise Doubt(f"the free space of its allocation group {group.number} is not in order of size")
        before = (length, start)
        again.add(start, length)
    if told != again or (told.blocks, told.longest) != (group.free_blocks, group.longest):
        raise Doubt(f"the two trees of its allocation group {group.number} tell of different free space")
