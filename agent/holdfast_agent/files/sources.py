"""Bytes to look for file systems in: disks of an export, parts of them, and parts put together."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.disks.nbd.blocks import pieces
from holdfast_agent.disks.nbd.connection import Connection
from holdfast_agent.disks.nbd.protocol import NbdConnectionLost, NbdRequestError
from holdfast_agent.disks.nbd.requests import ReadRequest
from holdfast_agent.errors import DiskUnreadable
from holdfast_agent.filesystems.reading import Doubt, Volume
from holdfast_agent.model.geometry import Extent

_PAGE_BYTES = 64 << 10
_PAGES = 512  # 32 MiB, the metadata of some ten thousand files


class Unreadable(Exception):
    """A file, a folder or a whole file system cannot be read as it should be. The text says why, for people."""


class Source(Protocol):
    """Used by one thread."""

    size_bytes: int

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer at the end, none behind it. Raises :class:`Unreadable`, and :class:`DiskUnreadable`
        when nothing can be read any more."""


class ExportedDisk:
    """A disk of an export as a :class:`Source`. Small reads are kept."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.url = name
        self.size_bytes = connection.export.size_bytes
        self._connection = connection
        self._pages: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size_bytes - offset))
        if length > _PAGE_BYTES:
            buffer = bytearray(length)
            self._read_into(offset, memoryview(buffer))
            return bytes(buffer)
        first, inside = divmod(offset, _PAGE_BYTES)
        last = (offset + length - 1) // _PAGE_BYTES
        if first == last:
            return self._page(first)[inside : inside + length]
        return b"".join(self._page(number) for number in range(first, last + 1))[inside : inside + length]

    def _read_into(self, offset: int, buffer: memoryview) -> None:
        facts = self._connection.export
        wanted = (
            ReadRequest(piece.start, buffer[piece.at : piece.at + piece.length])
            for piece in pieces(facts, offset, len(buffer))
        )
        try:
            self._connection.run(wanted)
        except NbdRequestError as error:
            raise Unreadable(f"the repository does not give all of it back: {error}") from error
        except NbdConnectionLost as error:
            place = {"offset_bytes": offset, "length_bytes": len(buffer)}
            raise DiskUnreadable(url=self.url, reason=str(error), **place) from error

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is not None:
            self._pages.move_to_end(number)
            return page
        start = number * _PAGE_BYTES
        buffer = bytearray(min(_PAGE_BYTES, self.size_bytes - start))
        self._read_into(start, memoryview(buffer))
        page = self._pages[number] = bytes(buffer)
        if len(self._pages) > _PAGES:
            self._pages.popitem(last=False)
        return page


class Part:
    """A range of another source. Raises :class:`Doubt` if it does not lie there."""

    def __init__(self, source: Source, start: int, size_bytes: int) -> None:
        if start < 0 or size_bytes < 0 or start + size_bytes > source.size_bytes:
            raise Doubt("it refers to something beyond the end of its disk")
        self.size_bytes = size_bytes
        self._source = source
        self._start = start

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size_bytes - offset))
        return self._source.read(self._start + offset, length)


class Joined:
    """Several sources, one behind the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self._parts = parts
        self._ends: list[int] = []
        self.size_bytes = 0
        for part in parts:
            self.size_bytes += part.size_bytes
            self._ends.append(self.size_bytes)

    def read(self, offset: int, length: int) -> bytes:
        found = []
        length = max(0, min(length, self.size_bytes - offset))
        number = bisect_right(self._ends, offset)
        while length:
            part = self._parts[number]
            inside = offset - (self._ends[number] - part.size_bytes)
            data = part.read(inside, min(length, part.size_bytes - inside))
            found.append(data)
            offset += len(data)
            length -= len(data)
            number += 1
        return b"".join(found)


class Striped:
    """Sources of one size, of which each has every so many bytes in turn."""

    def __init__(self, parts: Sequence[Source], stripe_bytes: int) -> None:
        self._parts = parts
        self._stripe = stripe_bytes
        self.size_bytes = sum(part.size_bytes for part in parts)

    def read(self, offset: int, length: int) -> bytes:
        found = []
        length = max(0, min(length, self.size_bytes - offset))
        while length:
            stripe, inside = divmod(offset, self._stripe)
            turn, number = divmod(stripe, len(self._parts))
            data = self._parts[number].read(turn * self._stripe + inside, min(length, self._stripe - inside))
            found.append(data)
            offset += len(data)
            length -= len(data)
        return b"".join(found)


class _Disk:
    """A source as ``filesystems`` reads disks."""

    url = ""

    def __init__(self, source: Source) -> None:
        self.size_bytes = source.size_bytes
        self._source = source

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._source.read(offset, len(buffer))

    def extents(self) -> Iterator[DiskExtent]:
        yield DiskExtent(0, self.size_bytes, data=True)

    def close(self) -> None:
        """Nothing is its own."""


def whole(source: Source) -> Volume:
    """As ``filesystems`` looks at one that has no partitions."""
    return Volume(_Disk(source), Extent(0, source.size_bytes))


class SourceFile(io.RawIOBase):
    """A source as a file, as libraries take it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = source.size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = self.size - self._position
        data = self.source.read(self._position, size)
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # (any buffer, which mypy cannot name)
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
