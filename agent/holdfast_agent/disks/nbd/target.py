"""NBD exports as restore targets."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable

from holdfast_agent.errors import DiskReadOnly, DiskUnwritable, UsageError
from holdfast_agent.wire.movers import MoverHost

from .blocks import Piece, pieces
from .connection import Connection
from .disk import NbdDisk
from .export import Dial, NbdExport
from .protocol import Command, CommandFlag, ExportFlag, NbdConnectionLost, NbdRequestError
from .requests import ReadRequest, Request

_ZEROS = memoryview(bytes(1 << 20))
_FAST_BYTES = 1 << 30
_SLOW_BYTES = 128 << 20  # zeros that a server writes one by one must be there before the request times out
_NOT_FAST = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class NbdTarget:
    """An export that is overwritten in place. It stays as it is when the restore is given up.

    A connection that breaks ends the restore: see :class:`NbdExport`. A range is never trimmed, for what is trimmed
    need not read as zeros.
    """

    def __init__(self, dial: Dial, url: str, host: MoverHost, size_bytes: int, bitmap: str = "") -> None:
        """``bitmap``: asked for by ``dial``, for whoever writes only what has changed."""
        self.url = url
        self._export = NbdExport(dial, url, host.workers, resume=False)
        self.now = NbdDisk(self._export, url, bitmap)
        self._facts = self._export.facts
        self._edges = threading.Lock()
        try:
            if self._facts.flags & ExportFlag.READ_ONLY:
                raise DiskReadOnly(url=url)
            if self._facts.size_bytes < size_bytes:
                raise UsageError(reason=f"{url} has {self._facts.size_bytes} bytes; the restore needs {size_bytes}")
        except BaseException:
            self._export.close()
            raise
        self._fast = bool(self._facts.flags & ExportFlag.FAST_ZERO)
        # Where all cannot be made durable at the end, each write is.
        flushes, durable = self._facts.flags & ExportFlag.FLUSH, self._facts.flags & ExportFlag.FUA
        self._flags = CommandFlag.FUA if durable and not flushes else CommandFlag.NONE

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        whole: list[Request] = []
        for piece in pieces(self._facts, offset, len(view)):
            part = view[piece.at : piece.at + piece.length]
            if piece.whole:
                whole.append(Request(Command.WRITE, piece.start, len(part), part, self._flags))
            else:
                self._write_edge(piece, part)
        self._run(lambda _: whole, offset, len(view))

    def write_zeros(self, offset: int, length: int) -> None:
        minimum = self._facts.minimum_bytes
        start, end = -(-offset // minimum) * minimum, (offset + length) // minimum * minimum
        if not self._facts.flags & ExportFlag.WRITE_ZEROES or start >= end:
            self._write_zeros_as_data(offset, offset + length)
            return
        self._write_zeros_as_data(offset, start)
        self._zero_blocks(start, end)
        self._write_zeros_as_data(end, offset + length)

    def finish(self) -> None:
        try:
            if self._facts.flags & ExportFlag.FLUSH:
                # One is enough: by the protocol it covers what other connections wrote, if several are allowed.
                self._run(lambda _: [Request(Command.FLUSH)], 0, 0)
        finally:
            self._export.close()

    def abort(self) -> None:
        self._export.close()

    def _write_edge(self, piece: Piece, part: memoryview) -> None:
        """Part of a block: the rest is kept. Ranges of two threads may meet in one block, so one at a time."""
        block = memoryview(bytearray(piece.end - piece.start))
        with self._edges:
            self._run(lambda _: [ReadRequest(piece.start, block)], piece.start, len(block))
            block[piece.skip : piece.skip + piece.length] = part
            write = Request(Command.WRITE, piece.start, len(block), block, self._flags)
            self._run(lambda _: [write], piece.start, len(block))

    def _write_zeros_as_data(self, start: int, end: int) -> None:
        for at in range(start, end, len(_ZEROS)):
            self.write(at, _ZEROS[: min(len(_ZEROS), end - at)])

    def _zero_blocks(self, start: int, end: int) -> None:
        while start < end:
            step = min(end - start, _FAST_BYTES if self._fast else _SLOW_BYTES)
            if self._zero(start, step, fast=self._fast):
                start += step

    def _zero(self, start: int, length: int, *, fast: bool) -> bool:
        """False: not fast, so from now on in smaller steps."""
        flags = self._flags | (CommandFlag.FAST_ZERO if fast else CommandFlag.NONE)
        try:
            self._export.run(lambda _: [Request(Command.WRITE_ZEROES, start, length, flags=flags)])
        except (NbdRequestError, NbdConnectionLost) as error:
            if fast and isinstance(error, NbdRequestError) and error.number in _NOT_FAST:
                self._fast = False
                return False
            raise self._unwritable(start, length, error) from error
        return True

    def _run(self, requests: Callable[[Connection], Iterable[Request]], offset: int, length: int) -> None:
        try:
            self._export.run(requests)
        except (NbdRequestError, NbdConnectionLost) as error:
            raise self._unwritable(offset, length, error) from error

    def _unwritable(self, offset: int, length: int, error: Exception) -> DiskUnwritable:
        return DiskUnwritable(url=self.url, offset_bytes=offset, length_bytes=length, reason=str(error))
