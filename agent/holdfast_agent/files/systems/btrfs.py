"""btrfs, on one disk or several, with its subvolumes as folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dissect.btrfs import Btrfs
from dissect.btrfs.c_btrfs import c_btrfs

from .nodes import Facts, FileSystem, Node, kind_of, name_of, pieces_of


def open_btrfs(files: Sequence[Any]) -> FileSystem:
    """Its topmost root. Raises anything."""
    system = Btrfs(list(files))
    return FileSystem("btrfs", system.label, str(system.uuid), BtrfsNode(system.fs_tree.root))


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
