"""Length-prefixed frames over non-blocking pipes, as wire.movers describes them."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator

from holdfast_agent.errors import MalformedMessage, MessageTooLarge

_LENGTH = struct.Struct("<I")
_READ_BYTES = 64 << 10
_READS_AT_ONCE = 32  # more than a pipe holds, so what a dead mover left is read whole; then others get their turn


class FrameWriter:
    """Frames towards a mover. What the pipe does not take at once is kept; :attr:`waiting` asks for polling."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._waiting: deque[memoryview] = deque()

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def put(self, frame: bytes) -> None:
        """Write as much as goes now; never blocks, never raises for a reader that is gone."""
        self._waiting.append(memoryview(_LENGTH.pack(len(frame))))
        self._waiting.append(memoryview(frame))
        self.flush()

    def flush(self) -> None:
        """Go on writing; called when the pipe is writable again."""
        while self._waiting:
            try:
                written = os.write(self._fd, self._waiting[0])
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._waiting.clear()  # the mover is gone; its exit tells the rest
                return
            if written == len(self._waiting[0]):
                self._waiting.popleft()
            else:
                self._waiting[0] = self._waiting[0][written:]


class FrameReader:
    """Frames from a mover, each at most ``limit_bytes``; a torn one at the end of file is dropped."""

    def __init__(self, fd: int, peer: str, limit_bytes: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._peer = peer
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self.ended = False

    def frames(self) -> Iterator[bytes]:
        """The whole frames that can be had now without blocking.

        Raises :class:`MessageTooLarge` or :class:`MalformedMessage` for a length that no mover sends; the stream is of
        no use after it.
        """
        for _ in range(_READS_AT_ONCE):
            try:
                read = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not read:
                self.ended = True
                return
            self._buffer += read
            yield from self._whole()

    def _whole(self) -> Iterator[bytes]:
        while len(self._buffer) >= _LENGTH.size:
            length = _LENGTH.unpack_from(self._buffer)[0]
            if length > self._limit_bytes:
                raise MessageTooLarge(peer=self._peer, size_bytes=length, limit_bytes=self._limit_bytes)
            if length == 0:
                raise MalformedMessage(peer=self._peer, reason="an empty frame")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield frame
