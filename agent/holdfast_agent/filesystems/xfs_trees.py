"""The two trees of free extents that each allocation group of an XFS has."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .crc32c import has_crc32c
from .reading import MAX_READ_BYTES, Doubt, Volume

BY_PLACE, BY_SIZE = b"AB3B", b"AB3C"
_HEADER_BYTES, _RECORD_BYTES, _POINTER_BYTES = 56, 8, 4
_NEVER_LOGGED = 0xFFFFFFFFFFFFFFFF
_MOST_LEVELS = 9


@dataclass
class Ground:
    """What all blocks of one file system have in common. ``last_lsn``: of the newest record in its log."""

    volume: Volume
    block_bytes: int
    uuid: bytes
    last_lsn: int
    _unread_bytes: int = 2 * MAX_READ_BYTES

    def knows(self, lsn: int) -> bool:
        """Whether the log has come as far as where metadata says that it was logged."""
        return lsn <= self.last_lsn or lsn == _NEVER_LOGGED

    def read_block(self, offset: int) -> bytes:
        """A block of a tree. Whatever the pointers of a disk say, only so many are read."""
        self._unread_bytes -= self.block_bytes
        if self._unread_bytes < 0:
            raise Doubt("its free space is in more pieces than are looked at")
        return self.volume.read(offset, self.block_bytes)


@dataclass
class Summary:
    """Free extents in whatever order: as many, as long in all, at the same places."""

    count: int = 0
    blocks: int = 0
    longest: int = 0
    places: int = 0

    def add(self, start: int, length: int) -> None:
        self.count += 1
        self.blocks += length
        self.longest = max(self.longest, length)
        self.places += (start << 32 | length) ** 2


@dataclass(frozen=True)
class FreeTree:
    """One tree of an allocation group, which begins at ``start`` in bytes of the volume."""

    ground: Ground
    kind: bytes
    group: int
    start: int
    blocks: int
    root: int
    levels: int

    def records(self) -> Iterator[tuple[int, int]]:
        """(first block in the group, number of blocks), in the order of the tree, which is not checked.

        Raises :class:`Doubt` and errors of the disk.
        """
        if not 0 < self.levels <= _MOST_LEVELS:
            raise self._doubt("is too deep")
        return self._below(self.root, self.levels - 1)

    def _below(self, block: int, level: int) -> Iterator[tuple[int, int]]:
        raw = self._block(block, level)
        count: int = struct.unpack_from(">H", raw, 6)[0]
        room = len(raw) - _HEADER_BYTES
        if level == 0:
            # Only a tree of a single block may be empty: others would make us read the same one for ever.
            if count > room // _RECORD_BYTES or not (count or self.levels == 1):
                raise self._doubt("has more or less in a block than can be")
            yield from struct.iter_unpack(">2I", raw[_HEADER_BYTES : _HEADER_BYTES + count * _RECORD_BYTES])
            return
        most = room // (_RECORD_BYTES + _POINTER_BYTES)
        if not 0 < count <= most:
            raise self._doubt("has more or less in a block than can be")
        for child in struct.unpack_from(f">{count}I", raw, _HEADER_BYTES + most * _RECORD_BYTES):
            yield from self._below(child, level - 1)

    def _block(self, block: int, level: int) -> bytes:
        """A block of the tree that is what it must be at this place."""
        if not 0 < block < self.blocks:
            raise self._doubt("refers to something beyond its end")
        offset = self.start + block * self.ground.block_bytes
        raw = self.ground.read_block(offset)
        kind, own_level = struct.unpack_from(">4sH", raw)
        sector, lsn, uuid, group = struct.unpack_from(">2Q16sI", raw, 16)
        if not has_crc32c(raw, 52):
            raise self._doubt("has a block with a wrong checksum")
        if (kind, own_level, sector * 512, uuid, group) != (self.kind, level, offset, self.ground.uuid, self.group):
            raise self._doubt("has a block that belongs elsewhere")
        if not self.ground.knows(lsn):
            raise self._doubt("is newer than its log")
        return raw

    def _doubt(self, what: str) -> Doubt:
        return Doubt(f"a tree of free space in its allocation group {self.group} {what}")
