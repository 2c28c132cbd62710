"""Requests in flight: what each sends, and what it makes of the chunks of its reply.

A reply may come in chunks, in any order, between those of other requests. Each request takes only what it asked for:
a byte too few, too many or twice ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from . import protocol
from .protocol import Chunk, Command, CommandFlag, NbdProtocolError

Receive = Callable[[memoryview], None]
"""Fills a buffer with the next bytes of the connection."""

_MAX_STATUS_BYTES = 4 + 8 * (1 << 17)  # QEMU tells at most so many runs at a time
_ZEROS = bytes(64 << 10)


class Request:
    """A request whose reply carries nothing. ``error``: the server's number, 0 if all is well."""

    def __init__(
        self,
        command: Command,
        offset: int = 0,
        length: int = 0,
        payload: bytes | memoryview = b"",
        flags: CommandFlag = CommandFlag.NONE,
    ) -> None:
        self.command = command
        self.offset = offset
        self.length = length
        self.payload = payload
        self.flags = flags
        self.error = 0
        self.done = False
        self.deadline = 0.0

    def header(self, cookie: int) -> bytes:
        """What is sent before the payload."""
        fields = (protocol.REQUEST_MAGIC, self.flags, self.command, cookie, self.offset, self.length)
        return struct.pack(">IHHQQI", *fields)

    def take_simple(self, structured: bool, receive: Receive) -> None:
        """A simple reply that reports success."""

    def take_chunk(self, kind: int, length: int, receive: Receive) -> None:
        """A chunk of a structured reply, whose ``length`` bytes are next on the connection."""
        if kind == Chunk.NONE and not length:
            return
        if not kind & Chunk.ERROR or not 6 <= length <= protocol.MAX_MESSAGE_BYTES:
            raise NbdProtocolError(f"a chunk of kind {kind} and {length} bytes is out of place")
        body = memoryview(bytearray(length))
        receive(body)
        number, text_bytes = struct.unpack(">IH", body[:6])
        if 6 + text_bytes > length:
            raise NbdProtocolError("a malformed error")
        self.error = self.error or number or -1

    def finish(self) -> None:
        """The reply is whole. Raises :class:`NbdProtocolError` if it does not say all that was asked."""


class ReadRequest(Request):
    """Fills ``buffer``, which must stay as it is until the request is done or the connection is given up."""

    def __init__(self, offset: int, buffer: memoryview) -> None:
        super().__init__(Command.READ, offset, len(buffer))
        self._buffer = buffer
        self._filled: list[tuple[int, int]] = []
        self._missing = len(buffer)

    def take_simple(self, structured: bool, receive: Receive) -> None:
        if structured:
            raise NbdProtocolError("a simple reply to a read")
        receive(self._buffer)
        self._missing = 0

    def take_chunk(self, kind: int, length: int, receive: Receive) -> None:
        if kind == Chunk.DATA and length > 8:
            place = memoryview(bytearray(8))
            receive(place)
            start, end = self._place(struct.unpack(">Q", place)[0], length - 8)
            receive(self._buffer[start:end])
        elif kind == Chunk.HOLE and length == 12:
            hole = memoryview(bytearray(12))
            receive(hole)
            start, end = self._place(*struct.unpack(">QI", hole))
            for at in range(start, end, len(_ZEROS)):
                self._buffer[at : min(at + len(_ZEROS), end)] = _ZEROS[: min(len(_ZEROS), end - at)]
        else:
            super().take_chunk(kind, length, receive)

    def finish(self) -> None:
        if self.error:
            return
        if self._missing:
            raise NbdProtocolError("the reply does not cover what was asked for")
        if any(end > start for (_, end), (start, _) in pairwise(sorted(self._filled))):
            raise NbdProtocolError("the reply covers a range twice")  # and so another one not at all

    def _place(self, offset: int, length: int) -> tuple[int, int]:
        start = offset - self.offset
        if start < 0 or not 0 < length <= self._missing or start + length > len(self._buffer):
            raise NbdProtocolError("data outside of what was asked for")
        self._filled.append((start, start + length))
        self._missing -= length
        return start, start + length


class Status(NamedTuple):
    """A run of the export that is alike: it reads as zeros; it was written since the bitmap began (if there is one)."""

    length: int
    zero: bool
    dirty: bool


class StatusRequest(Request):
    """Asks for all contexts of the connection at once."""

    def __init__(self, offset: int, length: int, contexts: dict[int, str]) -> None:
        super().__init__(Command.BLOCK_STATUS, offset, length)
        self._contexts = contexts
        self._told: dict[str, list[tuple[int, int]]] = {}

    def take_simple(self, structured: bool, receive: Receive) -> None:
        raise NbdProtocolError("a simple reply to a block status")

    def take_chunk(self, kind: int, length: int, receive: Receive) -> None:
        if kind != Chunk.STATUS:
            super().take_chunk(kind, length, receive)
            return
        if length < 12 or (length - 4) % 8 or length > _MAX_STATUS_BYTES:
            raise NbdProtocolError("a malformed block status")
        body = memoryview(bytearray(length))
        receive(body)
        context = self._contexts.get(struct.unpack(">I", body[:4])[0])
        if context is None or context in self._told:
            raise NbdProtocolError("a block status of something that was not asked")
        self._told[context] = list(struct.iter_unpack(">II", body[4:]))

    def finish(self) -> None:
        if self.error:
            return
        if len(self._told) != len(self._contexts):
            raise NbdProtocolError("a block status without runs")
        for runs in self._told.values():
            if not all(size for size, _ in runs):
                raise NbdProtocolError("an empty run in a block status")

    def runs(self) -> Iterator[Status]:
        """The contexts laid over each other, as far as every context reaches and never further than was asked."""
        everything = [(self.length, 0)]
        zeros = list(reversed(self._told.get(protocol.ALLOCATION, everything)))
        bitmap = (runs for name, runs in self._told.items() if name.startswith(protocol.BITMAP))
        dirty = list(reversed(next(bitmap, everything)))
        left = self.length
        while zeros and dirty and left:
            (zero_bytes, zero), (dirty_bytes, written) = zeros.pop(), dirty.pop()
            step = min(zero_bytes, dirty_bytes, left)
            yield Status(step, bool(zero & protocol.STATE_ZERO), bool(written & protocol.STATE_DIRTY))
            left -= step
            if zero_bytes > step:
                zeros.append((zero_bytes - step, zero))
            if dirty_bytes > step:
                dirty.append((dirty_bytes - step, written))
