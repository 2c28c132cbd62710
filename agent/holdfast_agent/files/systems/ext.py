"""ext2, ext3 and ext4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dissect.extfs import ExtFS

from holdfast_agent.errors import HoldfastError
from holdfast_agent.filesystems.reading import Doubt

from ..attributes import Attribute
from ..sources import SourceFile, Unreadable
from . import jbd2
from .ext_attributes import attributes_of
from .nodes import WHAT_TO_DO, Facts, FileSystem, Node, kind_of, name_of, pieces_of

_INCOMPATIBLE = 0x10 | 0x4000000  # meta_bg, and nothing known beyond what today's kernels write
_NEEDS_RECOVERY = 0x4
_ENCRYPTED, _INLINE = 0x800, 0x10000000
_INLINE_BYTES = 60
_JOURNAL = "it was in use and not frozen; its journal ({count} transactions) is carried out for reading, as by a mount"


def open_ext(file: SourceFile) -> FileSystem:
    """As a mount would show it: with its journal carried out, if that is due. Raises anything."""
    system, note, doubt = _library(file), "", ""
    if system.sb.s_feature_incompat & _NEEDS_RECOVERY:
        try:
            outcome = _replayed(system, file)
            system = _library(SourceFile(outcome.view))
            note, doubt = _JOURNAL.format(count=outcome.transactions), outcome.left_out
        except HoldfastError:
            raise
        except Exception as reason:  # noqa: BLE001 - a library met something that it does not understand
            doubt = str(reason) or type(reason).__name__
    if doubt:
        doubt = f"it was in use and not frozen, and its journal was not carried out whole ({doubt}): {WHAT_TO_DO}"
    return FileSystem(f"ext{system.type}", system.volume_name, str(system.uuid), ExtNode(system.root), note, doubt)


def _library(file: SourceFile) -> ExtFS:
    system = ExtFS(file)
    if system.sb.s_feature_incompat & _INCOMPATIBLE:
        raise Unreadable("it has features that cannot be read here")
    system.sb.s_inodes_count += 1  # the library leaves the last inode out of folders
    return system


def _replayed(system: ExtFS, file: SourceFile) -> jbd2.Outcome:
    number = system.sb.s_journal_inum
    if not number:
        raise Doubt("it lies on another device")
    inode = system.get_inode(number)
    content, block_bytes = inode.open(), int(system.block_size)

    def read(block: int) -> bytes:
        content.seek(block * block_bytes)
        raw = bytes(content.read(block_bytes))
        if len(raw) != block_bytes:
            raise Doubt("it ends too early")
        return raw

    return jbd2.replayed(file.source, read, int(inode.size) // block_bytes, block_bytes)


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

    def attributes(self) -> Iterator[Attribute]:
        return attributes_of(self._node)

    def _check(self, inline_bytes: int) -> None:
        flags = self._node.inode.i_flags
        if flags & _ENCRYPTED:
            raise Unreadable("the guest encrypted it")
        if flags & _INLINE and self._node.size > inline_bytes:
            raise Unreadable("its content lies in its inode, which cannot be read here")
