"""Extended attributes of XFS: in the inode, or in a tree of blocks that the inode's second fork maps.

Facts: "XFS Algorithms & Data Structures" (xfs-documentation), "Extended Attributes"; fs/xfs/libxfs/xfs_da_format.h and
xfs_format.h.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

from dissect.xfs.xfs import fsb_to_bb, parse_fsblock

from ..attributes import ACCESS, DEFAULT, MOST_VALUE_BYTES, Attribute, access_list
from ..sources import Unreadable

_LOCAL, _EXTENTS, _BTREE = 1, 2, 3
_ON_THE_SPOT, _ROOT, _SECURE, _PARENT, _INCOMPLETE = 0x01, 0x02, 0x04, 0x08, 0x80
_LISTS = {b"SGI_ACL_FILE": ACCESS, b"SGI_ACL_DEFAULT": DEFAULT}
_LIST_ENTRY = struct.Struct(">IIHxx")
_REMOTE_MAGIC, _REMOTE_HEADER_BYTES = b"XARM", 56
_MOST_DEPTH = 8
_MOST_BLOCKS = 1 << 16


class _Form(NamedTuple):
    """How blocks are laid out without and with checksums."""

    count_at: int
    leaf: int
    leaf_bytes: int
    node: int
    node_bytes: int


_PLAIN, _CHECKED = _Form(12, 0xFBEE, 32, 0xFEBE, 16), _Form(56, 0x3BEE, 80, 0x3EBE, 64)


def attributes_of(node: Any) -> Iterator[Attribute]:
    """Of an inode of the library's. Raises anything for what is damaged."""
    inode = node.inode
    if not inode.di_forkoff:
        return
    fork = node.attrfork()
    kind = int(inode.di_aformat)
    if kind == _LOCAL:
        yield from _short(fork.read(fork.size))
    elif kind in (_EXTENTS, _BTREE) and node.attr_extents:
        yield from _Fork(node, fork, kind).attributes()


def _short(raw: bytes) -> Iterator[Attribute]:
    total, count = struct.unpack_from(">HB", raw)
    at = 4
    for _ in range(count):
        name_bytes, value_bytes, flags = struct.unpack_from(">3B", raw, at)
        end = at + 3 + name_bytes + value_bytes
        if end > min(total, len(raw)):
            raise Unreadable("an extended attribute does not lie where it is said to")
        yield from _named(flags, raw[at + 3 : at + 3 + name_bytes], raw[at + 3 + name_bytes : end])
        at = end


def _named(flags: int, name: bytes, value: bytes) -> Iterator[Attribute]:
    if flags & (_PARENT | _INCOMPLETE):
        return
    if flags & _ROOT and name in _LISTS:
        yield _LISTS[name], _list_of(value)
        return
    yield (b"trusted." if flags & _ROOT else b"security." if flags & _SECURE else b"user.") + name, value


def _list_of(value: bytes) -> bytes:
    (count,) = struct.unpack_from(">I", value)
    if 4 + count * _LIST_ENTRY.size > len(value):
        raise Unreadable("its access list is of an unknown form")
    entries = (_LIST_ENTRY.unpack_from(value, 4 + number * _LIST_ENTRY.size) for number in range(count))
    return access_list((tag, permissions, who) for tag, who, permissions in entries)


class _Fork:
    """The blocks of a second fork, by their numbers in it."""

    def __init__(self, node: Any, fork: Any, kind: int) -> None:
        self._system = node.xfs
        self._bytes: int = node.xfs.block_size
        self._form = _CHECKED if node.xfs.version == 5 else _PLAIN
        groups = node.ag.sb
        self._starts: list[int] = []
        self._runs: list[tuple[int, int, int]] = []
        for first, block, count, _ in sorted(_extents(node, fork, kind)):
            group, inside = fsb_to_bb(block, groups.sb_agblklog)
            self._starts.append(first)
            self._runs.append((first, group * groups.sb_agblocks + inside, count))

    def attributes(self) -> Iterator[Attribute]:
        """Leaf by leaf, each of which names the one that follows."""
        number = self._first_leaf()
        for _ in range(_MOST_BLOCKS):
            leaf = self._block(number)
            yield from self._of_leaf(leaf)
            (number,) = struct.unpack_from(">I", leaf)
            if not number:
                return
        raise Unreadable("its extended attributes go round in a circle")

    def _first_leaf(self) -> int:
        number = 0
        for _ in range(_MOST_DEPTH):
            block = self._block(number)
            (magic,) = struct.unpack_from(">H", block, 8)
            if magic == self._form.leaf:
                return number
            if magic != self._form.node:
                break
            _, number = struct.unpack_from(">II", block, self._form.node_bytes)
        raise Unreadable("the blocks of its extended attributes are not such")

    def _of_leaf(self, leaf: bytes) -> Iterator[Attribute]:
        (magic,) = struct.unpack_from(">H", leaf, 8)
        (count,) = struct.unpack_from(">H", leaf, self._form.count_at)
        if magic != self._form.leaf:
            raise Unreadable("the blocks of its extended attributes are not such")
        for number in range(count):
            _, at, flags = struct.unpack_from(">IHB", leaf, self._form.leaf_bytes + 8 * number)
            if flags & _ON_THE_SPOT:
                value_bytes, name_bytes = struct.unpack_from(">HB", leaf, at)
                name, value = leaf[at + 3 : at + 3 + name_bytes], leaf[at + 3 + name_bytes :][:value_bytes]
            else:
                block, value_bytes, name_bytes = struct.unpack_from(">IIB", leaf, at)
                name = leaf[at + 9 : at + 9 + name_bytes]
                value = b"" if flags & _INCOMPLETE else self._far(block, value_bytes)
            if len(name) != name_bytes or (len(value) != value_bytes and not flags & _INCOMPLETE):
                raise Unreadable("an extended attribute does not lie where it is said to")
            yield from _named(flags, name, value)

    def _far(self, number: int, length: int) -> bytes:
        """A value in blocks of its own."""
        if length > MOST_VALUE_BYTES:
            raise Unreadable("an extended attribute is longer than such can be")
        value = b""
        while len(value) < length:
            block = self._block(number)
            if self._form is _CHECKED:
                if block[:4] != _REMOTE_MAGIC:
                    raise Unreadable("a block of an extended attribute is not one")
                block = block[_REMOTE_HEADER_BYTES:]
            value += block
            number += 1
        return value[:length]

    def _block(self, number: int) -> bytes:
        place = bisect_right(self._starts, number) - 1
        first, block, count = self._runs[place] if place >= 0 else (0, 0, 0)
        if number >= first + count:
            raise Unreadable("its extended attributes refer to a block that is not there")
        self._system.fh.seek((block + number - first) * self._bytes)
        raw = bytes(self._system.fh.read(self._bytes))
        if len(raw) != self._bytes:
            raise Unreadable("its extended attributes refer to something beyond the end")
        return raw


def _extents(node: Any, fork: Any, kind: int) -> Iterator[tuple[int, int, int, int]]:
    """(first block in the fork, block of the file system, blocks, flag)."""
    raw = fork.read(fork.size)
    if kind == _EXTENTS:
        for at in range(0, 16 * node.attr_extents, 16):
            yield parse_fsblock(raw[at : at + 16])
        return
    (records,) = struct.unpack_from(">H", raw, 2)
    first_pointer = 4 + (len(raw) - 4) // 16 * 8
    for number in range(records):
        (pointer,) = struct.unpack_from(">Q", raw, first_pointer + 8 * number)
        yield from node.ag.walk_extents(pointer)
