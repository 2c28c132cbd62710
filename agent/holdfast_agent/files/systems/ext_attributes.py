"""Extended attributes of ext2, ext3 and ext4: behind the inode, in a block of their own, large ones in other inodes.

Facts: https://docs.kernel.org/filesystems/ext4/ ("Extended Attributes") and fs/ext4/acl.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from ..attributes import ACCESS, DEFAULT, MOST_VALUE_BYTES, Attribute, access_list
from ..sources import Unreadable

_MAGIC = 0xEA020000
_OLD_INODE_BYTES = 128
_BLOCK_HEADER_BYTES = 32
_ENTRY = struct.Struct("<BBHIII")
_PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security."}
_LISTS = {2: ACCESS, 3: DEFAULT}
_SHORT, _LONG = struct.Struct("<HH"), struct.Struct("<HHI")
_LIST_VERSION = 1
_NAMED = (0x02, 0x08)


def attributes_of(node: Any) -> Iterator[Attribute]:
    """Of an inode of the library's. Raises anything for what is damaged."""
    system = node.extfs
    raw = _raw_inode(node)
    if len(raw) > _OLD_INODE_BYTES:
        start = _OLD_INODE_BYTES + int.from_bytes(raw[_OLD_INODE_BYTES : _OLD_INODE_BYTES + 2], "little")
        if raw[start : start + 4] == _MAGIC.to_bytes(4, "little"):
            area = raw[start + 4 :]
            yield from _entries(system, area, 0)
    block = node.inode.i_file_acl_high << 32 | node.inode.i_file_acl_lo
    if block:
        system.fh.seek(block * system.block_size)
        area = system.fh.read(system.block_size)
        if area[:4] != _MAGIC.to_bytes(4, "little"):
            raise Unreadable("the block of its extended attributes is not one")
        yield from _entries(system, area, _BLOCK_HEADER_BYTES)


def _raw_inode(node: Any) -> bytes:
    system = node.extfs
    group, index = divmod(node.inum - 1, system.sb.s_inodes_per_group)
    descriptor = system._read_group_desc(group)
    table = descriptor.bg_inode_table_lo | getattr(descriptor, "bg_inode_table_hi", 0) << 32
    system.fh.seek(table * system.block_size + index * system.sb.s_inode_size)
    return bytes(system.fh.read(system.sb.s_inode_size))


def _entries(system: Any, area: bytes, at: int) -> Iterator[Attribute]:
    """Those of one area, in which offsets of values count from its beginning."""
    while at + _ENTRY.size <= len(area) and area[at : at + 4] != bytes(4):
        name_bytes, index, offset, inode, size, _ = _ENTRY.unpack_from(area, at)
        name = area[at + _ENTRY.size : at + _ENTRY.size + name_bytes]
        at += -(-(_ENTRY.size + name_bytes) // 4) * 4
        if index not in _PREFIXES and index not in _LISTS:
            continue  # content kept in the inode, keys of encryption: the file system's own
        if size > MOST_VALUE_BYTES or (not inode and offset + size > len(area)):
            raise Unreadable("an extended attribute does not lie where it is said to")
        value = _value_in(system, inode, size) if inode else area[offset : offset + size]
        if index in _LISTS:
            yield _LISTS[index], _list_of(value)
        else:
            yield _PREFIXES[index] + name, value


def _value_in(system: Any, inode: int, size: int) -> bytes:
    value = bytes(system.get_inode(inode).open().read(size))
    if len(value) != size:
        raise Unreadable("the inode of an extended attribute is too short")
    return value


def _list_of(value: bytes) -> bytes:
    if value[:4] != _LIST_VERSION.to_bytes(4, "little"):
        raise Unreadable("its access list is of an unknown form")
    entries = []
    at = 4
    while at < len(value):
        tag, permissions = _SHORT.unpack_from(value, at)
        who = _LONG.unpack_from(value, at)[2] if tag in _NAMED else 0
        at += _LONG.size if tag in _NAMED else _SHORT.size
        entries.append((tag, permissions, who))
    return access_list(entries)
