"""btrfs, on one disk or several, with its subvolumes as folders."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from dissect.btrfs import Btrfs
from dissect.btrfs.c_btrfs import c_btrfs

from ..attributes import Attribute
from ..sources import Unreadable
from .nodes import WHAT_TO_DO, Facts, FileSystem, Node, kind_of, name_of, pieces_of

_LOG_ROOT_AT = 0x60
_NAMED = struct.Struct("<25xHHx")  # struct btrfs_dir_item: the lengths of value and name, which follow it


def open_btrfs(files: Sequence[Any]) -> FileSystem:
    """Its topmost root. Raises anything."""
    system = Btrfs(list(files))
    files[0].seek(c_btrfs.BTRFS_SUPER_INFO_OFFSET + _LOG_ROOT_AT)
    doubt = ""
    if any(files[0].read(8)):
        doubt = f"it was in use and not frozen, and its tree of late writes is not carried out here: {WHAT_TO_DO}"
    return FileSystem("btrfs", system.label, str(system.uuid), BtrfsNode(system.fs_tree.root), doubt=doubt)


def set_of(file: Any) -> bytes:
    """What the disks of one file system have in common."""
    file.seek(c_btrfs.BTRFS_SUPER_INFO_OFFSET + 0x20)
    return bytes(file.read(16))


class BtrfsNode:
    def __init__(self, node: Any) -> None:
        self.key = (node.subvolume.objectid, node.inum)
        self._node = node

    def facts(self) -> Facts:
        node = self._node
        return Facts(
            kind=kind_of(node.mode),
            size=node.size,
            mtime_ns=node.mtime_ns,
            mode=node.mode & 0o7777,
            uid=node.uid,
            gid=node.gid,
            links=node.inode.nlink,
        )

    def children(self) -> Iterator[tuple[bytes, Node]]:
        for name, child in self._node.iterdir():
            if name not in (".", ".."):
                yield name_of(name), BtrfsNode(child)

    def target(self) -> bytes:
        return name_of(self._node.link)

    def data(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        stream = self._node.open()
        return pieces_of(stream, start)

    def attributes(self) -> Iterator[Attribute]:
        cursor = self._node.subvolume.tree.cursor()
        for _, item in cursor.iter(self._node.inum, c_btrfs.BTRFS_XATTR_ITEM_KEY, 0, ignore_offset=True):
            left = bytes(item)
            while left:  # several whose names have one hash
                value_bytes, name_bytes = _NAMED.unpack_from(left)
                end = _NAMED.size + name_bytes + value_bytes
                if end > len(left):
                    raise Unreadable("an extended attribute does not lie where it is said to")
                yield left[_NAMED.size : _NAMED.size + name_bytes], left[_NAMED.size + name_bytes : end]
                left = left[end:]
