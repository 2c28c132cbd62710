"""XFS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dissect.util.stream import RunlistStream
from dissect.xfs import XFS
from dissect.xfs.c_xfs import c_xfs
from dissect.xfs.xfs import fsb_to_bb

from holdfast_agent.filesystems.reading import Doubt
from holdfast_agent.filesystems.xfs import check_log

from ..attributes import Attribute
from ..sources import SourceFile, Unreadable, whole
from .nodes import WHAT_TO_DO, Facts, FileSystem, Node, kind_of, name_of, pieces_of
from .xfs_attributes import attributes_of

_REALTIME = 0x1  # di_flags: its content is on another device
_LOCAL = c_xfs.xfs_dinode_fmt.XFS_DINODE_FMT_LOCAL


def open_xfs(file: SourceFile) -> FileSystem:
    """Raises anything."""
    system = XFS(file)
    if system.sb.sb_dirblklog:
        raise Unreadable("its folders have blocks of another size, which cannot be read here")
    doubt = ""
    try:
        check_log(whole(file.source))
    except Doubt as reason:
        doubt = f"its log is not carried out here, and may hold what was changed last ({reason}): {WHAT_TO_DO}"
    return FileSystem("XFS", system.name, str(system.uuid), XfsNode(system.root), doubt=doubt)


class XfsNode:
    def __init__(self, node: Any) -> None:
        self.key = node.inum
        self._node = node

    def facts(self) -> Facts:
        inode = self._node.inode
        return Facts(
            kind=kind_of(inode.di_mode),
            size=self._node.size,
            mtime_ns=self._node.mtime_ns,
            mode=inode.di_mode & 0o7777,
            uid=inode.di_uid,
            gid=inode.di_gid,
            links=inode.di_nlink,
        )

    def children(self) -> Iterator[tuple[bytes, Node]]:
        for child in self._node.iterdir():
            if child.filename not in (".", ".."):
                yield name_of(child.filename), XfsNode(child)

    def target(self) -> bytes:
        return name_of(self._node.link)

    def data(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        inode = self._node.inode
        if inode.di_flags & _REALTIME:
            raise Unreadable("its content is on a realtime device, which cannot be read here")
        if inode.di_format == _LOCAL:
            return pieces_of(self._node.open(), start)
        system = self._node.xfs
        return pieces_of(RunlistStream(system.fh, self._runs(), self._node.size, system.block_size), start)

    def attributes(self) -> Iterator[Attribute]:
        return attributes_of(self._node)

    def _runs(self) -> list[tuple[int | None, int]]:
        """As the library's own, but that what was reserved and never written reads as zeros."""
        superblock = self._node.ag.sb
        runs: list[tuple[int | None, int]] = []
        at = 0
        for offset, block, count, unwritten in self._node._iter_blocks():
            if offset < at:
                raise Unreadable("its extents overlap")
            if offset > at:
                runs.append((None, offset - at))
            group, inside = fsb_to_bb(block, superblock.sb_agblklog)
            runs.append((None if unwritten else group * superblock.sb_agblocks + inside, count))
            at = offset + count
        return runs
