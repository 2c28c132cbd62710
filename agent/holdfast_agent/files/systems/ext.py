"""ext2, ext3 and ext4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dissect.extfs import ExtFS

from ..sources import Unreadable
from .nodes import Facts, FileSystem, Node, kind_of, name_of, pieces_of

_INCOMPATIBLE = 0x10 | 0x4000000  # meta_bg, and nothing known beyond what today's kernels write
_NEEDS_RECOVERY = 0x4
_ENCRYPTED, _INLINE = 0x800, 0x10000000
_INLINE_BYTES = 60


def open_ext(file: Any) -> FileSystem:
    """Raises anything."""
    system = ExtFS(file)
    if system.sb.s_feature_incompat & _INCOMPATIBLE:
        raise Unreadable("it has features that cannot be read here")
    system.sb.s_inodes_count += 1  # the library leaves the last inode out of folders
    note = ""
    if system.sb.s_feature_incompat & _NEEDS_RECOVERY:
        note = "it was in use and not frozen: what was written in its last seconds may be missing"
    return FileSystem(f"ext{system.type}", system.volume_name, str(system.uuid), ExtNode(system.root), note)


class ExtNode:
    def __init__(self, node: Any) -> None:
        self.key = node.inum
        self._node = node

    def facts(self) -> Facts:
        inode = self._node.inode
        return Facts(
            kind=kind_of(inode.i_mode),
            size=self._node.size,
            mtime_ns=self._node.mtime_ns,
            mode=inode.i_mode & 0o7777,
            uid=inode.i_uid_high << 16 | inode.i_uid,
            gid=inode.i_gid_high << 16 | inode.i_gid,
            links=inode.i_links_count,
        )

    def children(self) -> Iterator[tuple[bytes, Node]]:
        self._check(inline_bytes=-1)
        for child in self._node.iterdir():
            if child.filename not in (".", ".."):
                yield name_of(child.filename), ExtNode(child)

    def target(self) -> bytes:
        self._check(_INLINE_BYTES)
        return name_of(self._node.link)

    def data(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        self._check(_INLINE_BYTES)
        return pieces_of(self._node.open(), start)

    def _check(self, inline_bytes: int) -> None:
        flags = self._node.inode.i_flags
        if flags & _ENCRYPTED:
            raise Unreadable("the guest encrypted it")
        if flags & _INLINE and self._node.size > inline_bytes:
            raise Unreadable("its content lies in its inode, which cannot be read here")
