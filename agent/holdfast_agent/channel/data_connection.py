"""A data connection between two movers after the handshake: messages in order, sealed, with credit by bytes.

Each side grants the other a window of bytes. Every message costs its size on the wire and is paid back once its
receiver has *consumed* it (:meth:`DataConnection.release`), not merely read it; so the window bounds what a slow disk
or repository makes either side hold, whatever the network does. The channel's own records cost nothing.

A limit on what is sent is kept here, below the messages: a large one leaves in small parts, with heartbeats between
them, so that a slow transfer is neither a burst nor looks like a stalled one.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import NoReturn

import msgspec

from holdfast_agent.errors import ConnectionLost, RecordRejected

from .data_pacing import Pacer
from .data_records import (
    MAX_FRAME_BYTES,
    MAX_PLAIN_BYTES,
    OVERHEAD_BYTES,
    Buffer,
    Frames,
    RecordKind,
    RecordOpener,
    RecordSealer,
)
from .data_wires import Arrival, Wire

DEFAULT_WINDOW_BYTES = 16 << 20
"""Enough for 160 MiB/s over 100 ms of delay; both movers hold at most this much for each other."""

MAX_HEARTBEAT_S = 5.0
_LINGER_S = 5.0
_BODY_LENGTH = struct.Struct("<I")
_CREDIT = struct.Struct("<Q")


class Incoming(msgspec.Struct, frozen=True):
    """A received message. ``cost_bytes`` is what :meth:`DataConnection.release` must be given once it is consumed."""

    body: memoryview
    payload: memoryview
    cost_bytes: int


class Stream(msgspec.Struct):
    """State of one stream: its records in both directions and when each last moved."""

    sealer: RecordSealer
    opener: RecordOpener
    last_sent: float
    last_received: float
    arriving: bytearray = msgspec.field(default_factory=bytearray)


class _Leaving(msgspec.Struct):
    """A message on its way out, and how much of it has left."""

    stream: int
    plain: bytes
    ciphertext: Buffer
    sent: int = 0

    @property
    def size(self) -> int:
        return len(self.plain) + len(self.ciphertext)


class DataConnection:
    """Made by a listener or a connector once both sides have proved themselves. One thread owns it.

    ``send_window_bytes`` is what the peer granted, ``receive_window_bytes`` what we granted. A peer of which nothing
    (not even a heartbeat) comes on some stream for ``stall_timeout_s`` counts as lost.
    """

    def __init__(
        self,
        wire: Wire,
        streams: list[Stream],
        *,
        peer: str,
        send_window_bytes: int,
        receive_window_bytes: int,
        stall_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.peer = peer
        self.sent_bytes = 0
        self.received_bytes = 0
        self._wire = wire
        self._streams = streams
        self._spread = cycle(range(len(streams)))
        self._may_send = send_window_bytes
        self._may_receive = receive_window_bytes
        self._window = receive_window_bytes
        self._owed = 0
        self._unsent: deque[_Leaving] = deque()
        self._leaving: _Leaving | None = None
        self._pacer = Pacer(clock)
        self._stall_timeout_s = stall_timeout_s
        self._heartbeat_s = min(MAX_HEARTBEAT_S, stall_timeout_s / 4)
        self._clock = clock
        self._ended = False

    @property
    def writable(self) -> bool:
        """Whether a message sent now begins to leave at once, but for a limit. Whoever sends in bulk asks first; that
        bounds the memory."""
        return self._may_send > 0 and self._leaving is None and not self._unsent

    @property
    def throttled(self) -> bool:
        """Whether something waits for the limit alone."""
        return self._leaving is not None

    def limit(self, bytes_per_s: int | None) -> None:
        """Send no more than this from now on, all streams together; None: as fast as it goes."""
        self._pacer.change(bytes_per_s)
        self._push()

    def send(
        self,
        body: Buffer,
        payload: Iterable[Buffer] = (),
        *,
        ciphertext: Buffer = b"",
        spread: bool = False,
        urgent: bool = False,
    ) -> int:
        """Send one message: a short ``body`` and any bulk that belongs to it; never blocks.

        ``ciphertext`` in place of ``payload``: bulk that its maker has encrypted already, which is authenticated but
        not encrypted once more. It is not copied and must not change any more.
        ``spread``: over any stream, so that its order among other messages is open; otherwise it stays in order with
        all others that were sent without ``spread``. Returns the bytes that it takes on the wire.
        Without credit the message waits inside the connection, unless it is ``urgent``: the last words of a mover.
        """
        plain = b"".join((_BODY_LENGTH.pack(len(body)), body, *payload))
        cost = _cost(plain, ciphertext)
        if cost > MAX_PLAIN_BYTES + OVERHEAD_BYTES:
            raise ValueError(f"a message of {cost} bytes is above the limit of {MAX_PLAIN_BYTES + OVERHEAD_BYTES}")
        stream = next(self._spread) if spread else 0
        if urgent:
            self._send_record(stream, RecordKind.MESSAGE, plain)
        else:
            self._unsent.append(_Leaving(stream, plain, ciphertext))
            self._push()
        return cost

    def receive(self) -> Incoming | None:
        """The next message, or None if none has arrived.

        Raises :class:`ConnectionLost` once all that arrived before the end has been handed out, and
        :class:`RecordRejected`; both retryable on a new connection.
        """
        while (arrival := self._wire.receive()) is not None:
            stream = self._streams[arrival.stream]
            try:
                kind, plain, ciphertext = stream.opener.open(arrival.frames)
            except RecordRejected as error:
                self._fail(error)
            stream.last_received = self._clock()
            incoming = self._take(stream, kind, plain, ciphertext)
            if incoming is not None:
                return incoming
        if self._wire.gone:
            self._fail(ConnectionLost(peer=self.peer, reason="the connection was closed"))
        return None

    def release(self, cost_bytes: int) -> None:
        """Say that messages worth ``cost_bytes`` are consumed, so that the peer may send as much again."""
        self._owed += cost_bytes
        if self._owed >= self._window // 4:
            self._may_receive += self._owed
            self._send_record(0, RecordKind.CREDIT, _CREDIT.pack(self._owed))
            self._owed = 0

    def wait(self, timeout_s: float, fds: Iterable[int] = ()) -> set[int]:
        """Wait until there may be something to receive, one of ``fds`` is readable, or the time is over.

        Returns those of ``fds`` that are readable. Also sends heartbeats, so it must be called every few seconds.
        """
        for number, stream in enumerate(self._streams):
            if self._clock() - stream.last_sent >= self._heartbeat_s:
                self._send_record(number, RecordKind.HEARTBEAT, b"")
        timeout_s = min(timeout_s, self._heartbeat_s)
        if self.throttled:
            self._push()
            # What has left just now makes room for more, which nobody need wait for.
            timeout_s = min(timeout_s, self._pacer.delay_s()) if self.throttled else 0.0
        ready = self._wire.wait(timeout_s, fds)
        self._push()
        return ready

    def check_alive(self) -> None:
        """Raise :class:`ConnectionLost` if a stream has been silent for too long.

        Called when nothing more can be received, so that messages which merely wait for us do not count as silence.
        """
        oldest = min(stream.last_received for stream in self._streams)
        if self._clock() - oldest > self._stall_timeout_s:
            reason = f"nothing was heard for {self._stall_timeout_s:g} s"
            self._fail(ConnectionLost(peer=self.peer, reason=reason))

    def close(self) -> None:
        """End in good order: what was sent still arrives, and the peer is told. Idempotent.

        Waits a few seconds at most until the peer says goodbye too, reading on: a TCP connection that is closed with
        something unread is reset, and a reset makes the other kernel forget what it had received but not handed out.
        """
        if not self._ended and not self._wire.gone:
            self.limit(None)
            self._send_record(0, RecordKind.BYE, b"")
            self._wait_for_goodbye()
        self._ended = True
        self._wire.close(0 if self._wire.gone else _LINGER_S)

    def abort(self) -> None:
        """End at once, dropping what has not left. Idempotent."""
        self._ended = True
        self._wire.close(0)

    def _wait_for_goodbye(self) -> None:
        """Pass over what still comes until the peer has said goodbye or is gone."""
        deadline = self._clock() + _LINGER_S
        while True:
            while (arrival := self._wire.receive()) is not None:
                if self._is_goodbye(arrival):
                    return
            left_s = deadline - self._clock()
            if self._wire.gone or left_s <= 0:
                return
            self._wire.wait(left_s, ())

    def _is_goodbye(self, arrival: Arrival) -> bool:
        """Whether a record says goodbye; one that cannot be trusted ends the waiting as well."""
        try:
            kind, _, _ = self._streams[arrival.stream].opener.open(arrival.frames)
        except RecordRejected:
            return True
        return kind is RecordKind.BYE

    def _take(self, stream: Stream, kind: RecordKind, plain: memoryview, ciphertext: Buffer) -> Incoming | None:
        if kind is RecordKind.CREDIT and len(plain) == _CREDIT.size:
            self._may_send += _CREDIT.unpack(plain)[0]
            self._push()
        elif kind is RecordKind.BYE:
            self._fail(ConnectionLost(peer=self.peer, reason="the other mover ended"))
        elif kind in (RecordKind.MESSAGE, RecordKind.CARRIER):
            return self._take_message(plain, ciphertext)
        elif kind in (RecordKind.PART, RecordKind.LAST):
            return self._take_part(stream, kind, plain)
        elif kind is not RecordKind.HEARTBEAT:
            self._fail(RecordRejected(reason=f"a record of kind {kind.name} has no place here"))
        return None

    def _take_part(self, stream: Stream, kind: RecordKind, plain: memoryview) -> Incoming | None:
        stream.arriving += plain
        if len(stream.arriving) > MAX_PLAIN_BYTES:
            self._fail(RecordRejected(reason="the parts of a message are more than a message may have"))
        if kind is RecordKind.PART:
            return None
        whole, stream.arriving = stream.arriving, bytearray()
        return self._take_message(memoryview(whole), b"")

    def _take_message(self, plain: memoryview, ciphertext: Buffer) -> Incoming:
        cost = _cost(plain, ciphertext)
        self._may_receive -= cost
        if self._may_receive < -MAX_FRAME_BYTES - OVERHEAD_BYTES:  # the last message may begin with one byte of credit
            self._fail(RecordRejected(reason="the peer sent more than its credit"))
        length = _BODY_LENGTH.unpack_from(plain)[0] if len(plain) >= _BODY_LENGTH.size else len(plain) + 1
        if _BODY_LENGTH.size + length > len(plain):
            self._fail(RecordRejected(reason="the message inside is cut"))
        self.received_bytes += cost
        start = _BODY_LENGTH.size
        payload = memoryview(ciphertext) if len(ciphertext) else plain[start + length :]
        return Incoming(plain[start : start + length], payload, cost)

    def _push(self) -> None:
        while (message := self._leaving or self._next()) is not None and not self._pacer.delay_s():
            whole = message.sent == 0 and message.size <= self._pacer.part_bytes
            size = self._send_whole(message) if whole else self._send_part(message)
            self._pacer.spent(size + OVERHEAD_BYTES)
            message.sent += size
            self._leaving = message if message.sent < message.size else None

    def _next(self) -> _Leaving | None:
        """Begin with the next message, if there is one and credit for it."""
        if not self._unsent or self._may_send <= 0:
            return None
        self._leaving = message = self._unsent.popleft()
        cost = message.size + OVERHEAD_BYTES
        self._may_send -= cost
        self.sent_bytes += cost
        return message

    def _send_whole(self, message: _Leaving) -> int:
        if len(message.ciphertext):
            sealer = self._streams[message.stream].sealer
            self._send_frames(message.stream, sealer.seal_carrier(message.plain, message.ciphertext))
        else:
            self._send_record(message.stream, RecordKind.MESSAGE, message.plain)
        return message.size

    def _send_part(self, message: _Leaving) -> int:
        """A piece of the whole, in which ciphertext is text like any other; at so slow a rate that costs nothing."""
        if len(message.ciphertext):
            message.plain, message.ciphertext = b"".join((message.plain, message.ciphertext)), b""
        part = message.plain[message.sent : message.sent + self._pacer.part_bytes]
        kind = RecordKind.PART if message.sent + len(part) < message.size else RecordKind.LAST
        self._send_record(message.stream, kind, part)
        return len(part)

    def _send_record(self, stream: int, kind: RecordKind, plain: bytes) -> None:
        self._send_frames(stream, self._streams[stream].sealer.seal(kind, plain))

    def _send_frames(self, stream: int, frames: Frames) -> None:
        self._streams[stream].last_sent = self._clock()
        # A stream that is gone is noticed by receive(), after what arrived before has been handed out.
        self._wire.send(stream, frames)

    def _fail(self, error: ConnectionLost | RecordRejected) -> NoReturn:
        self.abort()
        raise error


def _cost(plain: Buffer, ciphertext: Buffer) -> int:
    """What a message takes of the receiver's credit."""
    return len(plain) + len(ciphertext) + OVERHEAD_BYTES
