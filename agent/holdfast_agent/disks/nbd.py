"""NBD, the client's side of one connection: fixed newstyle, structured replies, reads and allocation.

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. Everything that a server says is bounded before
memory is taken for it. One request at a time on a connection; who wants more opens more connections.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from holdfast_agent.errors import DiskNotFound, DiskUnreadable

_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_MAGIC = 0x67446698
_STRUCTURED_MAGIC = 0x668E33EF

_FIXED_NEWSTYLE = 1
_NO_ZEROES = 2
_OPT_GO, _OPT_STRUCTURED, _OPT_SET_META = 7, 8, 10
_REP_ACK, _REP_INFO, _REP_META_CONTEXT = 1, 3, 4
_REP_ERROR = 1 << 31
_REP_UNKNOWN_EXPORT = _REP_ERROR | 6
_INFO_EXPORT = 0
_FLAG_MULTI_CONNECTION = 1 << 8
_CMD_READ, _CMD_DISC, _CMD_BLOCK_STATUS = 0, 2, 7
_CHUNK_DONE = 1
_CHUNK_NONE, _CHUNK_DATA, _CHUNK_HOLE, _CHUNK_STATUS, _CHUNK_ERROR, _CHUNK_ERROR_OFFSET = 0, 1, 2, 5, 32769, 32770
_STATE_ZERO = 2
_STATE_DIRTY = 1
_ALLOCATION = "base:allocation"
_BITMAP = "qemu:dirty-bitmap:"

_MAX_OPTION_REPLY_BYTES = 64 << 10
_MAX_OPTION_REPLIES = 64
_MAX_STATUS_BYTES = 4 + 8 * (1 << 17)
_MAX_READ_BYTES = 32 << 20
_STATUS_RANGE_BYTES = 1 << 30


class NbdProtocolError(Exception):
    """The server broke the protocol or the connection; turned into a disk error by whoever uses the connection."""


class NbdRequestError(Exception):
    """The server answered a request with an error number; the connection stays usable."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))


class Status(NamedTuple):
    """A run of the export that is alike: it reads as zeros; it was written since the bitmap began (if there is one)."""

    length: int
    zero: bool
    dirty: bool


class NbdConnection:
    """One connection in transmission phase. Not thread-safe."""

    def __init__(self, peer: socket.socket, export: str, url: str, host: str, bitmap: str = "") -> None:
        """Negotiate on a connected socket, which then belongs to this object; ``bitmap`` is asked for too.

        Raises :class:`DiskNotFound` for an unknown export, :class:`DiskUnreadable` (retryable) if the server does not
        speak NBD as it should."""
        self._socket = peer
        self._url = url
        self._host = host
        self._handle = 0
        self.size_bytes = 0
        self.multi_connection = False
        self.tells_allocation = False
        self.tells_changes = False
        self._contexts: dict[int, str] = {}
        self._structured = False
        try:
            self._negotiate(export, bitmap)
        except (OSError, NbdProtocolError) as error:
            peer.close()
            raise DiskUnreadable(url=url, offset_bytes=0, length_bytes=0, reason=f"NBD: {error}") from error
        except BaseException:
            peer.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``. Raises :class:`NbdRequestError`, :class:`NbdProtocolError`, OSError."""
        for start in range(0, len(buffer), _MAX_READ_BYTES):
            part = buffer[start : start + _MAX_READ_BYTES]
            self._request(_CMD_READ, offset + start, len(part))
            self._receive_read(offset + start, part)

    def status(self, offset: int, length: int) -> list[Status]:
        """Allocation from ``offset`` on: at least one run, possibly covering less than ``length``, never more."""
        length = min(length, _STATUS_RANGE_BYTES)
        self._request(_CMD_BLOCK_STATUS, offset, length)
        told: dict[str, list[tuple[int, int]]] = {}
        problem = 0
        done = False
        while not done:
            kind, done, size = self._chunk_header()
            if kind == _CHUNK_STATUS:
                if size < 12 or (size - 4) % 8 or size > _MAX_STATUS_BYTES:
                    raise NbdProtocolError("a malformed block status")
                body = self._exactly(size)
                context = self._contexts.get(struct.unpack(">I", body[:4])[0])
                if context is None or context in told:
                    raise NbdProtocolError("a block status of something that was not asked")
                told[context] = list(struct.iter_unpack(">II", body[4:]))
            else:
                problem = self._other_chunk(kind, size)
        if problem:
            raise NbdRequestError(problem)
        if len(told) != len(self._contexts):
            raise NbdProtocolError("a block status without runs")
        return list(_together(told, length))

    def close(self) -> None:
        """Say goodbye as far as that works. Idempotent, never raises."""
        try:
            self._socket.settimeout(1)
            self._request(_CMD_DISC, 0, 0)
        except OSError:
            pass  # it is gone already, which is what we want
        finally:
            self._socket.close()

    # --- negotiation ------------------------------------------------------------------------------------------------

    def _negotiate(self, export: str, bitmap: str) -> None:
        magic, option_magic, flags = struct.unpack(">QQH", self._exactly(18))
        if magic != _MAGIC or option_magic != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
            raise NbdProtocolError("the server does not speak fixed newstyle NBD")
        self._socket.sendall(struct.pack(">I", _FIXED_NEWSTYLE | (flags & _NO_ZEROES)))
        name = export.encode()
        self._structured = self._option(_OPT_STRUCTURED, b"")[-1][0] == _REP_ACK
        if self._structured:
            self._ask_contexts(name, [_ALLOCATION] + ([_BITMAP + bitmap] if bitmap else []))
        replies = self._option(_OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        if replies[-1][0] == _REP_UNKNOWN_EXPORT:
            raise DiskNotFound(url=self._url, host=self._host)
        if replies[-1][0] != _REP_ACK:
            raise NbdProtocolError(f"the server refused the export (reply {replies[-1][0]:#x})")
        for kind, body in replies:
            if kind == _REP_INFO and len(body) == 12 and body[:2] == struct.pack(">H", _INFO_EXPORT):
                self.size_bytes, flags = struct.unpack(">QH", body[2:])
                self.multi_connection = bool(flags & _FLAG_MULTI_CONNECTION)
                return
        raise NbdProtocolError("the server did not tell the size of the export")

    def _ask_contexts(self, export: bytes, wanted: list[str]) -> None:
        queries = b"".join(struct.pack(">I", len(query.encode())) + query.encode() for query in wanted)
        body = struct.pack(">I", len(export)) + export + struct.pack(">I", len(wanted)) + queries
        for kind, reply in self._option(_OPT_SET_META, body):
            if kind == _REP_META_CONTEXT:
                name = reply[4:].decode(errors="replace")
                if name not in wanted or name in self._contexts.values():
                    raise NbdProtocolError(f"the server offers the context {name!r}, which was not asked for")
                self._contexts[struct.unpack(">I", reply[:4])[0]] = name
        self.tells_allocation = _ALLOCATION in self._contexts.values()
        self.tells_changes = any(name.startswith(_BITMAP) for name in self._contexts.values())

    def _option(self, option: int, body: bytes) -> list[tuple[int, bytes]]:
        """Send one option; all replies to it, the last being an acknowledgement or an error."""
        self._socket.sendall(struct.pack(">QII", _OPTION_MAGIC, option, len(body)) + body)
        replies: list[tuple[int, bytes]] = []
        while len(replies) < _MAX_OPTION_REPLIES:
            magic, answered, kind, length = struct.unpack(">QIII", self._exactly(20))
            if magic != _OPTION_REPLY_MAGIC or answered != option or length > _MAX_OPTION_REPLY_BYTES:
                raise NbdProtocolError("a malformed reply to an option")
            replies.append((kind, self._exactly(length)))
            if kind == _REP_ACK or kind & _REP_ERROR:
                return replies
        raise NbdProtocolError("too many replies to one option")

    # --- transmission -----------------------------------------------------------------------------------------------

    def _request(self, command: int, offset: int, length: int) -> None:
        self._handle += 1
        self._socket.sendall(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, command, self._handle, offset, length))

    def _receive_read(self, offset: int, buffer: memoryview) -> None:
        missing = len(buffer)
        problem = 0
        done = False
        while not done:
            kind, done, size = self._chunk_header(len(buffer))
            if kind == _CHUNK_DATA:
                start = self._place(offset, size - 8, len(buffer))
                self._fill(buffer[start : start + size - 8])
                missing -= size - 8
            elif kind == _CHUNK_HOLE:
                (where, length) = struct.unpack(">QI", self._exactly(12)) if size == 12 else (0, len(buffer) + 1)
                start = where - offset
                if not 0 <= start <= start + length <= len(buffer):
                    raise NbdProtocolError("a hole outside of what was asked for")
                buffer[start : start + length] = bytes(length)
                missing -= length
            elif kind == _SIMPLE_MAGIC:
                self._fill(buffer)
                missing = 0
            else:
                problem = self._other_chunk(kind, size) or problem
        if problem:
            raise NbdRequestError(problem)
        if missing:
            raise NbdProtocolError("the reply does not cover what was asked for")

    def _place(self, offset: int, length: int, asked: int) -> int:
        start: int = struct.unpack(">Q", self._exactly(8))[0] - offset
        if length <= 0 or not 0 <= start <= start + length <= asked:
            raise NbdProtocolError("data outside of what was asked for")
        return start

    def _chunk_header(self, simple_bytes: int = 0) -> tuple[int, bool, int]:
        """(kind, whether it is the last, length) of the next chunk; a simple reply counts as one chunk."""
        magic = struct.unpack(">I", self._exactly(4))[0]
        if magic == _SIMPLE_MAGIC:
            number, handle = struct.unpack(">IQ", self._exactly(12))
            if handle != self._handle or (self._structured and not number):
                raise NbdProtocolError("a simple reply out of place")
            if number:
                raise NbdRequestError(_errno(number))
            return _SIMPLE_MAGIC, True, simple_bytes
        if magic != _STRUCTURED_MAGIC or not self._structured:
            raise NbdProtocolError("a reply without its magic")
        flags, kind, handle, length = struct.unpack(">HHQI", self._exactly(16))
        if handle != self._handle:
            raise NbdProtocolError("a reply to something that was not asked")
        return kind, bool(flags & _CHUNK_DONE), length

    def _other_chunk(self, kind: int, size: int) -> int:
        """An error chunk's number, 0 for an empty chunk."""
        if kind == _CHUNK_NONE and size == 0:
            return 0
        if kind in (_CHUNK_ERROR, _CHUNK_ERROR_OFFSET) and 6 <= size <= _MAX_OPTION_REPLY_BYTES:
            return _errno(struct.unpack(">I", self._exactly(size)[:4])[0])
        raise NbdProtocolError(f"a chunk of kind {kind} and {size} bytes is out of place")

    def _exactly(self, length: int) -> bytes:
        buffer = bytearray(length)
        self._fill(memoryview(buffer))
        return bytes(buffer)

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = self._socket.recv_into(view[done:])
            if count == 0:
                raise NbdProtocolError("the server closed the connection")
            done += count


def _together(told: dict[str, list[tuple[int, int]]], length: int) -> Iterator[Status]:
    """The runs of all contexts laid over each other, as far as every context reaches, cut at ``length``."""
    zeros = [(size, bool(flags & _STATE_ZERO)) for size, flags in told.get(_ALLOCATION, [(length, 0)])]
    bitmap = next((runs for name, runs in told.items() if name.startswith(_BITMAP)), [(length, 0)])
    dirty = [(size, bool(flags & _STATE_DIRTY)) for size, flags in bitmap]
    if not all(size for size, _ in zeros) or not all(size for size, _ in dirty):
        raise NbdProtocolError("an empty run in a block status")
    zeros.reverse()
    dirty.reverse()
    while zeros and dirty and length:
        (left, zero), (right, changed) = zeros.pop(), dirty.pop()
        step = min(left, right, length)
        yield Status(step, zero, changed)
        length -= step
        if left > step:
            zeros.append((left - step, zero))
        if right > step:
            dirty.append((right - step, changed))


def _errno(number: int) -> int:
    """NBD's error numbers are Linux's; anything strange counts as an I/O error."""
    return number if number in errno.errorcode else errno.EIO
