"""Files on web servers as restore targets."""

from __future__ import annotations

import os
import tempfile
from functools import partial

from holdfast_agent.descriptors import write_at
from holdfast_agent.errors import DiskDenied, DiskExists, DiskNotFound, DiskUnwritable, HoldfastError
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .connection import Answer
from .server import WebServer

_PIECE_BYTES = 1 << 20
_DONE = (200, 201, 204)
_THERE = (200, 206, 416)
_MISSING = (404, 410)


class WebTarget:
    """A file that is put on the server as a whole when all of it is known.

    A server takes a file from its first byte to its last, and the blocks of a restore come in any order: they are
    gathered in an unnamed sparse file in the mover's cache directory, which needs room for what is no hole. So a link
    that breaks costs the upload, not the restore; until ``finish`` nothing on the server is touched.
    """

    def __init__(
        self, url: DiskUrl, host: MoverHost, access: DiskAccess, size_bytes: int, *, create: bool, overwrite: bool
    ) -> None:
        self.url = str(url)
        self._path = url.path
        self._host = host
        self._size_bytes = size_bytes
        self._server = WebServer(url, host, access, partial(self._unwritable, 0, 0))
        self._fd = -1
        try:
            self._check(create, overwrite)
            self._fd = self._unnamed()
        except BaseException:
            self.abort()
            raise

    def write(self, offset: int, data: bytes | memoryview) -> None:
        try:
            write_at(self._fd, offset, data)
        except OSError as error:
            raise self._no_room(offset, len(data), error) from error

    def write_zeros(self, offset: int, length: int) -> None:
        """Nothing to do: the file began as one hole, and no block is written twice."""

    def finish(self) -> None:
        try:
            answer = self._server.put(self._path, self._size_bytes, self._read, self._lost)
            if answer.status not in _DONE:
                raise self._refusal(answer)
            found = self._first_byte()
            if (found.total_bytes or 0) != self._size_bytes:
                raise self._lost(f"the server has {found.total_bytes} bytes of it, not {self._size_bytes}")
        finally:
            self.abort()

    def abort(self) -> None:
        self._server.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self, create: bool, overwrite: bool) -> None:
        """Whether the server lets us at it, before anything is gathered."""
        answer = self._first_byte()
        if answer.status not in _THERE + _MISSING:
            raise self._refusal(answer)
        if create and not overwrite and answer.status in _THERE:
            raise DiskExists(url=self.url)
        if not create and answer.status in _MISSING:
            raise DiskNotFound(url=self.url, host=self._host.agent)

    def _first_byte(self) -> Answer:
        return self._server.get(self._path, 0, memoryview(bytearray(1)), "", self._lost)

    def _unnamed(self) -> int:
        try:
            with tempfile.TemporaryFile(dir=self._host.cache_dir) as file:
                file.truncate(self._size_bytes)
                return os.dup(file.fileno())
        except OSError as error:
            raise self._no_room(0, self._size_bytes, error) from error

    def _read(self, at: int) -> memoryview:
        piece = os.pread(self._fd, min(_PIECE_BYTES, self._size_bytes - at), at)
        if not piece:
            raise self._lost(f"the gathered file ends at {at}")
        return memoryview(piece)

    def _refusal(self, answer: Answer) -> HoldfastError:
        if answer.status in (401, 403):
            return DiskDenied(host=self._host.agent, url=self.url, reason=f"the server answers {answer.status}")
        return self._lost(f"the server answers {answer.status}")

    def _no_room(self, offset: int, length: int, error: OSError) -> DiskUnwritable:
        reason = f"{os.strerror(error.errno or 0)} in {self._host.cache_dir}, where it is gathered first"
        return self._unwritable(offset, length, reason)

    def _lost(self, reason: str) -> DiskUnwritable:
        return self._unwritable(0, self._size_bytes, reason)

    def _unwritable(self, offset: int, length: int, reason: str) -> DiskUnwritable:
        return DiskUnwritable(url=self.url, offset_bytes=offset, length_bytes=length, reason=reason[:300])
