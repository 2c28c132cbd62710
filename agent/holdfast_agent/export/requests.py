"""Requests of a client in the second phase: how they are read and bounded, and what their replies look like."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import NamedTuple

from holdfast_agent.disks.nbd import protocol
from holdfast_agent.disks.nbd.protocol import Chunk, Command, CommandFlag, NbdProtocolError
from holdfast_agent.disks.nbd.stream import Stream

from .image import Part, Run

HEADER = struct.Struct(">IHHQQI")
_CHUNK = struct.Struct(">IHHQI")
_SIMPLE = struct.Struct(">IIQ")
_HOLE = struct.Struct(">QI")
_INBOX_BYTES = 64 << 10
_MOST_CHUNKS = 64  # of one read; in more pieces than that it is sent as one
_ZEROS = memoryview(bytes(1 << 20))
_FLAGS = {
    Command.READ: CommandFlag.DONT_FRAGMENT,
    Command.WRITE: CommandFlag.FUA,
    Command.FLUSH: CommandFlag.NONE,
    Command.TRIM: CommandFlag.FUA,
    Command.CACHE: CommandFlag.NONE,
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
    Command.BLOCK_STATUS: CommandFlag.ONE_RUN,
}
_WRITES = (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES)
Bytes = bytes | memoryview


class Refused(Exception):
    """The request gets this error number; the connection lives on."""

    def __init__(self, number: int, reason: str) -> None:
        self.number = number
        super().__init__(reason)


class Request(NamedTuple):
    flags: int
    command: int
    cookie: int
    offset: int
    length: int

    def check(self, size_bytes: int, writable: bool) -> None:
        """Raise :class:`Refused` unless this may be asked of an image of that size."""
        if self.command not in _FLAGS:
            raise Refused(errno.EINVAL, f"there is no command {self.command}")
        if self.flags & ~int(_FLAGS[Command(self.command)]):  # (the inverse of an IntFlag knows only its own bits)
            raise Refused(errno.EINVAL, f"the flags {self.flags:#x} have no place here")
        if self.command in (*_WRITES, Command.FLUSH) and not writable:
            raise Refused(errno.EPERM, "this export is read-only")
        if self.command == Command.FLUSH:
            if self.offset or self.length:
                raise Refused(errno.EINVAL, "a flush is of everything")
            return
        if not self.length:
            raise Refused(errno.EINVAL, "a request for nothing")
        if self.offset + self.length > size_bytes:
            beyond = errno.ENOSPC if self.command in _WRITES else errno.EINVAL
            raise Refused(beyond, f"the disk ends at {size_bytes}")
        if self.command == Command.READ and self.length > protocol.MAX_PAYLOAD_BYTES:
            raise Refused(errno.EINVAL, f"at most {protocol.MAX_PAYLOAD_BYTES} bytes are read at a time")


class Inbox:
    """What a client sends, read in large pieces: several small requests take one system call. One thread."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = memoryview(bytearray(_INBOX_BYTES))
        self._start = self._end = 0

    @property
    def empty(self) -> bool:
        """Whether nothing more has been received than was taken."""
        return self._start == self._end

    def request(self) -> Request:
        """The next header. Raises TimeoutError only while nothing of it has come; else :class:`NbdProtocolError`,
        OSError."""
        if self._end - self._start < HEADER.size:
            self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
            self._fill()
        magic, flags, command, cookie, offset, length = HEADER.unpack_from(self._buffer, self._start)
        self._start += HEADER.size
        if magic != protocol.REQUEST_MAGIC:
            raise NbdProtocolError("a request without its magic")
        return Request(flags, command, cookie, offset, length)

    def payload(self, length: int) -> memoryview:
        """``length`` bytes that follow a header, which the caller has bounded. Raises OSError."""
        payload = memoryview(bytearray(length))
        here = min(length, self._end - self._start)
        payload[:here] = self._buffer[self._start : self._start + here]
        self._start += here
        if here < length:
            self._stream.receive_into(payload[here:])
        return payload

    def _fill(self) -> None:
        begun = self._end > 0
        while self._end < HEADER.size:
            try:
                self._end += self._stream.receive_some(self._buffer[self._end :])
            except TimeoutError as error:
                if begun or self._end:
                    raise NbdProtocolError("a request was begun and not ended") from error
                raise


def simple(request: Request, error: int = 0) -> Bytes:
    """A reply without chunks: of a client that wants none, and of whatever carries no data."""
    return _SIMPLE.pack(protocol.SIMPLE_REPLY_MAGIC, error, request.cookie)


def refusal(request: Request, number: int, reason: str, structured: bool) -> Bytes:
    """An error; where chunks are spoken with its reason."""
    if not structured:
        return simple(request, number)
    text = reason.encode()[: protocol.MAX_NAME_BYTES]
    return _chunk(request, Chunk.ERROR_MESSAGE, 6 + len(text), True) + struct.pack(">IH", number, len(text)) + text


def read_reply(request: Request, parts: Sequence[Part], structured: bool) -> list[Bytes]:
    """What was read, nothing of it copied."""
    if not structured:
        return [simple(request), *_expanded(parts)]
    if request.flags & CommandFlag.DONT_FRAGMENT or len(parts) > _MOST_CHUNKS:
        head = _chunk(request, Chunk.DATA, 8 + request.length, True) + struct.pack(">Q", request.offset)
        return [head, *_expanded(parts)]
    reply: list[Bytes] = []
    offset, place = request.offset, 0
    while place < len(parts):
        first = place
        hole = isinstance(parts[place], int)
        while place < len(parts) and isinstance(parts[place], int) is hole:
            place += 1
        length = sum(part if isinstance(part, int) else len(part) for part in parts[first:place])
        done = place == len(parts)
        if hole:
            reply.append(_chunk(request, Chunk.HOLE, _HOLE.size, done) + _HOLE.pack(offset, length))
        else:
            reply.append(_chunk(request, Chunk.DATA, 8 + length, done) + struct.pack(">Q", offset))
            reply += [part for part in parts[first:place] if not isinstance(part, int)]
        offset += length
    return reply


def status_reply(request: Request, context: int, runs: Sequence[Run]) -> Bytes:
    """Runs of one context."""
    body = struct.pack(">I", context) + b"".join(struct.pack(">II", *run) for run in runs)
    return _chunk(request, Chunk.STATUS, len(body), True) + body


def _chunk(request: Request, kind: int, length: int, done: bool) -> bytes:
    flags = protocol.CHUNK_DONE if done else 0
    return _CHUNK.pack(protocol.STRUCTURED_REPLY_MAGIC, flags, kind, request.cookie, length)


def _expanded(parts: Sequence[Part]) -> list[Bytes]:
    expanded: list[Bytes] = []
    for part in parts:
        if isinstance(part, int):
            whole, rest = divmod(part, len(_ZEROS))
            expanded += [_ZEROS] * whole
            expanded.append(_ZEROS[:rest])
        else:
            expanded.append(part)
    return expanded
