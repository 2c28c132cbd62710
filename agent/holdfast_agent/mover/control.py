"""The mover's end of the pipes to the Transport Service: orders come in on one, reports go out on the other."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections import deque
from types import FrameType

import msgspec

from holdfast_agent.errors import Cancelled, ErrorRecord, MalformedMessage
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.wire.movers import (
    PIPE_FRAME_LIMIT_BYTES,
    Begin,
    Failed,
    FromMover,
    MoverSetup,
    NewRules,
    Progressed,
    Stop,
)

_LENGTH = struct.Struct("<I")
_PROGRESS_S = 0.5
_decoder: msgspec.msgpack.Decoder[MoverSetup | Begin | NewRules | Stop] = msgspec.msgpack.Decoder(
    MoverSetup | Begin | NewRules | Stop
)
_encoder = msgspec.msgpack.Encoder()


class Control:
    """Owned by the main thread. SIGTERM, a Stop and the end of the pipe all come out as :class:`Cancelled`."""

    def __init__(self, orders_fd: int = 0, reports_fd: int = 1) -> None:
        self._orders_fd = orders_fd
        self._reports_fd = reports_fd
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._terminated = False
        self._buffer = bytearray()
        self._held: deque[Begin | NewRules] = deque()
        self._reported = 0.0
        os.set_blocking(orders_fd, False)

    @property
    def fds(self) -> tuple[int, int]:
        """To wait on; :meth:`take` says what it was."""
        return self._orders_fd, self._wake_fd

    def catch_sigterm(self) -> None:
        """From now on SIGTERM wakes the main thread, which then cleans up like after a Stop."""

        def terminate(_number: int, _frame: FrameType | None) -> None:
            self._terminated = True
            os.eventfd_write(self._wake_fd, 1)

        signal.signal(signal.SIGTERM, terminate)

    def setup(self) -> MoverSetup:
        """Wait for the first frame, perhaps for long. Raises :class:`Cancelled`, :class:`MalformedMessage`."""
        os.set_blocking(self._orders_fd, True)
        try:
            (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
            frame = decode_order(self._exactly(_check_length(length)))
        finally:
            os.set_blocking(self._orders_fd, False)
        if isinstance(frame, Stop):
            raise Cancelled(reason=frame.reason)
        if not isinstance(frame, MoverSetup):
            raise MalformedMessage(peer="the agent", reason=f"the first frame is a {type(frame).__name__}")
        return frame

    def take(self) -> deque[Begin | NewRules]:
        """All orders that have come, never waiting. Raises :class:`Cancelled`, :class:`MalformedMessage`."""
        self._fill()
        orders, self._held = self._held, deque()
        while len(self._buffer) >= _LENGTH.size:
            length = _check_length(_LENGTH.unpack_from(self._buffer)[0])
            if len(self._buffer) < _LENGTH.size + length:
                break
            frame = decode_order(bytes(self._buffer[_LENGTH.size : _LENGTH.size + length]))
            del self._buffer[: _LENGTH.size + length]
            if isinstance(frame, Stop):
                raise Cancelled(reason=frame.reason)
            if isinstance(frame, MoverSetup):
                raise MalformedMessage(peer="the agent", reason="a second setup")
            orders.append(frame)
        return orders

    def check(self) -> None:
        """As :meth:`take` while there is nothing yet to give orders to: they are kept for the next :meth:`take`."""
        self._held = self.take()

    def report(self, frame: FromMover) -> None:
        """Write one frame. Raises :class:`Cancelled` if nobody reads any more."""
        body = _encoder.encode(frame)
        data = memoryview(_LENGTH.pack(len(body)) + body)
        try:
            while data:
                data = data[os.write(self._reports_fd, data) :]
        except BrokenPipeError as error:
            raise Cancelled(reason="the agent is gone") from error

    def progress(self, counters: TransferCounters) -> None:
        """Report progress, at most twice a second."""
        if self.progress_due:
            self._reported = time.monotonic()
            self.report(Progressed(counters=counters))

    @property
    def progress_due(self) -> bool:
        return time.monotonic() - self._reported >= _PROGRESS_S

    def failed(self, error: ErrorRecord, counters: TransferCounters) -> None:
        """The last frame, as far as anybody reads it."""
        try:
            self.report(Failed(error=error, counters=counters))
        except Cancelled:
            return

    def _fill(self) -> None:
        if self._terminated:
            raise Cancelled(reason="the mover was terminated")
        while True:
            try:
                chunk = os.read(self._orders_fd, 1 << 20)
            except BlockingIOError:
                return
            if not chunk:
                raise Cancelled(reason="the agent is gone")
            self._buffer += chunk

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            chunk = os.read(self._orders_fd, length - len(data))
            if not chunk:
                raise Cancelled(reason="the agent is gone")
            data += chunk
        return data


def _check_length(length: int) -> int:
    if length > PIPE_FRAME_LIMIT_BYTES:
        raise MalformedMessage(peer="the agent", reason=f"a frame of {length} bytes")
    return length


def decode_order(body: bytes) -> MoverSetup | Begin | NewRules | Stop:
    """One frame from the agent. Raises :class:`MalformedMessage`."""
    try:
        return _decoder.decode(body)
    except NOT_DECODED as error:
        raise MalformedMessage(peer="the agent", reason=str(error)) from error
