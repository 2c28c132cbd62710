"""One incarnation of a data connection: TCP connections with keys of their own, until the first of them is lost.

The next incarnation has fresh keys from a handshake of its own, so no key and no nonce ever serves two of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from holdfast_agent.model.link import LinkTimeouts

from .data_exchange import Totals
from .data_records import Buffer, RecordKind, RecordOpener, RecordSealer
from .data_wires import Wire

_LOOKS = 3
"""So often in a row the kernel must say that nothing came: whoever looks late has not read what is there."""


class Stream(msgspec.Struct):
    """One stream's keys in both directions and when each last moved."""

    sealer: RecordSealer
    opener: RecordOpener
    last_sent: float
    last_received: float
    arriving: bytearray = msgspec.field(default_factory=bytearray)


class Record(msgspec.Struct, frozen=True):
    """A record that was opened."""

    stream: int
    kind: RecordKind
    plain: memoryview
    ciphertext: Buffer


class Incarnation:
    """Made by a listener or a connector once both sides have proved themselves. One thread owns it.

    ``totals``: what the other end said that it has; ``peer``: who that is, for people.
    """

    def __init__(
        self,
        wire: Wire,
        keys: Iterable[tuple[RecordSealer, RecordOpener]],
        totals: Totals,
        peer: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wire = wire
        self.streams = [Stream(sealer, opener, clock(), clock()) for sealer, opener in keys]
        self.totals = totals
        self.peer = peer
        self._clock = clock
        self._next_look = 0.0
        self._silent_looks = 0

    @property
    def gone(self) -> bool:
        """Whether a TCP connection has ended. What arrived before can still be received."""
        return self.wire.gone

    def send(self, stream: int, kind: RecordKind, plain: bytes) -> None:
        """Never blocks. That a connection is gone is noticed by :attr:`gone`, after what arrived before."""
        self.streams[stream].last_sent = self._clock()
        self.wire.send(stream, self.streams[stream].sealer.seal(kind, plain))

    def send_carrier(self, stream: int, plain: bytes, ciphertext: Buffer) -> None:
        self.streams[stream].last_sent = self._clock()
        self.wire.send(stream, self.streams[stream].sealer.seal_carrier(plain, ciphertext))

    def send_heartbeats(self, after_s: float) -> None:
        """On each stream that nothing else was sent on for so long."""
        now = self._clock()
        for number, stream in enumerate(self.streams):
            if now - stream.last_sent >= after_s:
                self.send(number, RecordKind.HEARTBEAT, b"")

    def receive(self) -> Record | None:
        """The next record, or None if none has arrived. Raises :class:`RecordRejected`."""
        arrival = self.wire.receive()
        if arrival is None:
            return None
        stream = self.streams[arrival.stream]
        kind, plain, ciphertext = stream.opener.open(arrival.frames)
        stream.last_received = self._clock()
        return Record(arrival.stream, kind, plain, ciphertext)

    def silence(self, timeouts: LinkTimeouts) -> str | None:
        """Why this incarnation counts as lost, if a stream has been silent for too long.

        Called when nothing more can be received, so that records which merely wait for us do not count as silence.
        """
        now = self._clock()
        if now - min(stream.last_received for stream in self.streams) > timeouts.stall_s:
            return f"the other mover said nothing for {timeouts.stall_s:g} s"
        if now < self._next_look:
            return None
        self._next_look = now + min(1.0, timeouts.silence_s / 10)
        self._silent_looks = self._silent_looks + 1 if self.wire.quiet_s() > timeouts.silence_s else 0
        return f"nothing came for {timeouts.silence_s:g} s" if self._silent_looks >= _LOOKS else None


class Opening(Protocol):
    """A listener or a connector, as the connection sees it that it has made. Owned by the connection's thread."""

    @property
    def waiting(self) -> bool:
        """Whether the other end has opened another incarnation while the last one still seems to stand."""

    def next(self, timeout_s: float, fds: Iterable[int], totals: Totals) -> Incarnation | None:
        """One step towards the next incarnation, at most so long; the last one is used no more. ``totals``: what the
        other end is told that we have. Raises what :meth:`DataConnector.poll` does, but for ``Unreachable``."""

    def abandon(self, *, elsewhere: bool) -> None:
        """The last incarnation is over: end its TCP connections, and drop what waits in them. ``elsewhere``: its
        address does not answer, so that another one is worth trying first."""

    def close(self, linger_s: float) -> None:
        """No other incarnation is wanted: close everything, giving what is queued up to ``linger_s``. Idempotent."""
