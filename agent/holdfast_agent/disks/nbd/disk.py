"""NBD exports as disks that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.errors import ChangeTrackingLost, DiskUnreadable

from . import protocol
from .blocks import pieces
from .connection import Connection
from .export import NbdExport
from .protocol import NbdConnectionLost, NbdRequestError
from .requests import ReadRequest, Request, Status, StatusRequest

_STATUS_BYTES = 1 << 31


class NbdDisk:
    """``nbd+unix:``, ``nbd:``, ``nbds:``, and what a server of our own serves."""

    def __init__(self, export: NbdExport, url: str, bitmap: str = "") -> None:
        """``export``: closed with the disk. ``bitmap``: asked for by its ``dial``."""
        self.url = url
        self._bitmap = bitmap
        self._export = export
        self.size_bytes = export.facts.size_bytes

    def extents(self) -> Iterator[DiskExtent]:
        if not self._export.facts.tells(protocol.ALLOCATION):
            yield DiskExtent(0, self.size_bytes, data=True)
            return
        for start, run in self._runs():
            yield DiskExtent(start, run.length, data=not run.zero)

    def changed_extents(self) -> Iterator[DiskExtent]:
        if not self._bitmap or not self._export.facts.tells(protocol.BITMAP + self._bitmap):
            missing = f"has no bitmap {self._bitmap!r}" if self._bitmap else "is asked for no bitmap"
            raise ChangeTrackingLost(reason=f"{self.url} {missing}")
        return self._changes()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        facts = self._export.facts
        edges: list[tuple[memoryview, memoryview]] = []

        def requests(_connection: Connection) -> Iterator[Request]:
            edges.clear()
            for piece in pieces(facts, offset, len(buffer)):
                target = buffer[piece.at : piece.at + piece.length]
                if not piece.whole:
                    block = memoryview(bytearray(piece.end - piece.start))
                    edges.append((target, block[piece.skip : piece.skip + piece.length]))
                    target = block
                yield ReadRequest(piece.start, target)

        self._run(requests, offset, len(buffer))
        for target, found in edges:
            target[:] = found

    def close(self) -> None:
        self._export.close()

    def _changes(self) -> Iterator[DiskExtent]:
        last: DiskExtent | None = None
        for start, run in self._runs():
            if not run.dirty:
                continue
            if last is not None and last.start + last.length == start and last.data is not run.zero:
                last = last._replace(length=last.length + run.length)
                continue
            if last is not None:
                yield last
            last = DiskExtent(start, run.length, data=not run.zero)
        if last is not None:
            yield last

    def _runs(self) -> Iterator[tuple[int, Status]]:
        """The status of the whole export, asked for as it is consumed: never more than one answer in memory."""
        position = 0
        while position < self.size_bytes:
            for run in self._status(position, min(_STATUS_BYTES, self.size_bytes - position)):
                yield position, run
                position += run.length

    def _status(self, offset: int, length: int) -> Iterator[Status]:
        asked: list[StatusRequest] = []

        def requests(connection: Connection) -> Iterator[Request]:
            asked[:] = [StatusRequest(offset, length, connection.export.contexts)]
            return iter(asked)

        self._run(requests, offset, 0)
        return asked[0].runs()

    def _run(self, requests: Callable[[Connection], Iterator[Request]], offset: int, length: int) -> None:
        try:
            self._export.run(requests)
        except (NbdRequestError, NbdConnectionLost) as error:
            raise DiskUnreadable(url=self.url, offset_bytes=offset, length_bytes=length, reason=str(error)) from error
