"""What every file system is to us: a tree of nodes."""

from __future__ import annotations

import stat
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple, Protocol

from dissect.util.stream import RunlistStream

from holdfast_agent.wire.files import FileKind

from ..attributes import Attribute
from ..sources import Unreadable

PIECE_BYTES = 1 << 20
WHAT_TO_DO = (
    "what was written last may be missing here, or be there in part. To have it, restore the disk and mount that, or"
    " start the VM by `holdfast verify boot` or `holdfast instant start`"
)
"""What a doubt about a file system ends with."""

_ZEROS = bytes(PIECE_BYTES)


class Facts(NamedTuple):
    """``links``: names that this file has. ``mode``: permission bits, setuid and so on among them."""

    kind: FileKind
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    links: int = 1


class Node(Protocol):
    """A file, folder or link. What its methods raise is of any kind: libraries meet whatever a disk holds.

    ``key``: the same for all names of one file, and for no other in its file system.
    """

    @property
    def key(self) -> Hashable: ...

    def facts(self) -> Facts: ...

    def children(self) -> Iterator[tuple[bytes, Node]]:
        """Names and nodes of a folder, in no order, without ``.`` and ``..``."""

    def target(self) -> bytes:
        """Of a link, as it stands."""

    def data(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of a file's content from ``start`` on, ascending; what is left out reads as zeros."""

    def attributes(self) -> Iterator[Attribute]:
        """Its extended attributes, access lists among them, in no order, as Linux calls them."""


class FileSystem(NamedTuple):
    """``note``: what to know of it. ``doubt``: why what is read may be other than what a mount would show."""

    kind: str
    label: str
    uuid: str
    root: Node
    note: str = ""
    doubt: str = ""


def kind_of(mode: int) -> FileKind:
    """By the file type of a Unix mode."""
    if stat.S_ISREG(mode):
        return FileKind.FILE
    if stat.S_ISDIR(mode):
        return FileKind.FOLDER
    return FileKind.LINK if stat.S_ISLNK(mode) else FileKind.OTHER


def name_of(name: str) -> bytes:
    """The bytes of a name that a library has decoded."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "backslashreplace")


def pieces_of(stream: Any, from_byte: int, valid_bytes: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The content of a library's stream from there on, up to ``valid_bytes`` if that is less, without what is known to
    be zeros."""
    size = stream.size if valid_bytes is None else min(stream.size, valid_bytes)
    for begin, end in _stretches(stream, size):
        start = max(begin, from_byte)
        if start >= end:
            continue
        stream.seek(start)
        while start < end:
            data = stream.read(min(PIECE_BYTES, end - start))
            if not data:
                raise Unreadable(f"its content ends at byte {start} of {size}")
            if data != _ZEROS[: len(data)]:
                yield start, bytes(data)
            start += len(data)


def _stretches(stream: Any, size: int) -> Iterator[tuple[int, int]]:
    """Ranges with data. Only of plain runs: where a library unpacks, a run is no range of the content."""
    if type(stream) is not RunlistStream:
        yield 0, size
        return
    at = 0
    for block, count in stream.runlist:
        end = min(at + count * stream.block_size, size)
        if block is not None and at < end:
            yield at, end
        at = max(at, end)
        if at >= size:
            return
