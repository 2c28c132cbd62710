"""Thin volumes of the device mapper: which block of a pool each block of a volume is in.

Facts: https://docs.kernel.org/admin-guide/device-mapper/thin-provisioning.html ; drivers/md/dm-thin-metadata.c and
drivers/md/persistent-data/dm-btree-internal.h.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from typing import NamedTuple

from holdfast_agent.filesystems.crc32c import crc32c
from holdfast_agent.filesystems.reading import Doubt

from .sources import Source

_BLOCK = 4096
_MAGIC = 27022010
_SUPERBLOCK_XOR, _NODE_XOR = 160774, 121107
_VERSIONS = (1, 2)
_INTERNAL, _LEAF = 1, 2
_NODE_HEADER = struct.Struct("<IIQIIII")
_VALUE_BYTES = 8
_TIME_BITS = 24
_MOST_DEPTH = 16
_NODES = 1024
_SECTOR = 512


class _Node(NamedTuple):
    is_leaf: bool
    keys: tuple[int, ...]
    values: tuple[int, ...]


class Pool:
    """One thread. ``metadata``, ``data``: the two devices of a pool."""

    def __init__(self, metadata: Source, data: Source) -> None:
        """Raises :class:`Doubt` for metadata that is damaged or of another form."""
        raw = metadata.read(0, _BLOCK)
        if len(raw) != _BLOCK or struct.unpack_from("<Q", raw, 32) != (_MAGIC,) or not _is_sound(raw, _SUPERBLOCK_XOR):
            raise Doubt("the superblock of its pool is damaged")
        (version,) = struct.unpack_from("<I", raw, 40)
        self._root, _, sectors, metadata_sectors = struct.unpack_from("<QQII", raw, 320)
        if version not in _VERSIONS or metadata_sectors * _SECTOR != _BLOCK or not 128 <= sectors <= 1 << 21:
            raise Doubt("the metadata of its pool is of an unknown form")
        self.chunk_bytes = sectors * _SECTOR
        self._metadata = metadata
        self._data = data
        self._nodes: OrderedDict[int, _Node] = OrderedDict()

    def volume(self, number: int, size_bytes: int) -> Source:
        """By its number in the pool. Raises :class:`Doubt` if it is not there."""
        root = self._find(self._root, number)
        if root is None:
            raise Doubt("its pool does not know it")
        return _Thin(self, root, size_bytes)

    def read(self, root: int, chunk: int, inside: int, length: int) -> bytes:
        """Of a chunk of the volume whose tree begins at ``root``. Raises :class:`Doubt`."""
        value = self._find(root, chunk)
        if value is None:
            return bytes(length)
        found = self._data.read((value >> _TIME_BITS) * self.chunk_bytes + inside, length)
        if len(found) != length:
            raise Doubt("its pool refers to something beyond its end")
        return found

    def _find(self, block: int, key: int) -> int | None:
        for _ in range(_MOST_DEPTH):
            node = self._node(block)
            place = bisect_right(node.keys, key) - 1
            if place < 0 or (node.is_leaf and node.keys[place] != key):
                return None
            if node.is_leaf:
                return node.values[place]
            block = node.values[place]
        raise Doubt("a tree of its pool is deeper than such can be")

    def _node(self, block: int) -> _Node:
        node = self._nodes.get(block)
        if node is None:
            node = self._nodes[block] = self._read_node(block)
            if len(self._nodes) > _NODES:
                self._nodes.popitem(last=False)
        self._nodes.move_to_end(block)
        return node

    def _read_node(self, block: int) -> _Node:
        raw = self._metadata.read(block * _BLOCK, _BLOCK)
        if len(raw) != _BLOCK or not _is_sound(raw, _NODE_XOR):
            raise Doubt("a tree of its pool is damaged")
        _, flags, own, entries, most, value_bytes, _ = _NODE_HEADER.unpack_from(raw)
        if (
            own != block
            or flags not in (_INTERNAL, _LEAF)
            or value_bytes != _VALUE_BYTES
            or not 0 <= entries <= most <= (_BLOCK - _NODE_HEADER.size) // (8 + _VALUE_BYTES)
        ):
            raise Doubt("a tree of its pool is of an unknown form")
        keys = struct.unpack_from(f"<{entries}Q", raw, _NODE_HEADER.size)
        values = struct.unpack_from(f"<{entries}Q", raw, _NODE_HEADER.size + 8 * most)
        return _Node(flags == _LEAF, keys, values)


class _Thin:
    """A volume of a pool; what was never written is zeros."""

    def __init__(self, pool: Pool, root: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._pool = pool
        self._root = root

    def read(self, offset: int, length: int) -> bytes:
        found = []
        length = max(0, min(length, self.size_bytes - offset))
        while length:
            chunk, inside = divmod(offset, self._pool.chunk_bytes)
            data = self._pool.read(self._root, chunk, inside, min(length, self._pool.chunk_bytes - inside))
            found.append(data)
            offset += len(data)
            length -= len(data)
        return b"".join(found)


def _is_sound(raw: bytes, xor: int) -> bool:
    return crc32c(raw[4:]) ^ xor == int.from_bytes(raw[:4], "little")
