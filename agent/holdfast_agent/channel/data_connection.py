"""A data connection between two movers after the handshake: messages in order, sealed, with credit by bytes.

Each side grants the other a window of bytes. Every message costs its size on the wire and is paid back once its
receiver has *consumed* it (:meth:`DataConnection.release`), not merely read it; so the window bounds what a slow disk
or repository makes either side hold, whatever the network does. The channel's own records cost nothing.

When its TCP connections are lost, the connection goes on with a new incarnation, behind what the other end has
(:mod:`data_exchange`); whoever uses it notices nothing but a pause.

A limit on what is sent is kept here, below the messages: a large one leaves in small parts, with heartbeats between
them, so that a slow transfer is neither a burst nor looks like a stalled one.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import NoReturn

import msgspec

from holdfast_agent.errors import ConnectionLost, HoldfastError, RecordRejected
from holdfast_agent.model.link import LinkTimeouts

from .data_exchange import Exchange, Message, Totals
from .data_incarnation import Incarnation, Opening, Record, Stream
from .data_outlet import Outlet
from .data_records import MAX_PLAIN_BYTES, OVERHEAD_BYTES, Buffer, RecordKind

DEFAULT_WINDOW_BYTES = 16 << 20
"""Enough for 160 MiB/s over 100 ms of delay; both movers hold at most this much for each other."""

MAX_HEARTBEAT_S = 5.0
_LINGER_S = 5.0
_BODY_LENGTH = struct.Struct("<I")


class Incoming(msgspec.Struct, frozen=True):
    """A received message. ``cost_bytes`` is what :meth:`DataConnection.release` must be given once it is consumed."""

    body: memoryview
    payload: memoryview
    cost_bytes: int


class DataConnection:
    """Made by a listener or a connector once both sides have proved themselves. One thread owns it.

    ``send_window_bytes`` is what the peer granted, ``receive_window_bytes`` what we granted. ``opening`` made the
    first incarnation and makes those that follow, until it is lost for ``timeouts.resume_s`` without any progress.
    """

    def __init__(
        self,
        first: Incarnation,
        opening: Opening,
        timeouts: LinkTimeouts,
        *,
        send_window_bytes: int,
        receive_window_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.peer = first.peer
        self.resumed = 0
        self.broken = False
        """Whether no TCP connection stood when it was ended."""
        self._exchange = Exchange(len(first.streams), send_window_bytes, receive_window_bytes)
        self._opening = opening
        self._timeouts = timeouts
        self._life: Incarnation | None = None
        self._lost_reason = "it was ended on this side"
        self._give_up_at = 0.0
        self._progress_when_lost = -1
        self._adopted_at = 0.0
        self._spread = cycle(range(len(first.streams)))
        self._outlet = Outlet(self._exchange, clock)
        self._heartbeat_s = min(MAX_HEARTBEAT_S, timeouts.stall_s / 4)
        self._clock = clock
        self._heard_goodbye = False
        self._goodbye_in: Incarnation | None = None
        self._part_by: float | None = None
        self._ended = False
        self._adopt(first)

    @property
    def sent_bytes(self) -> int:
        """What the messages took that were sent, each counted once however often the connection broke."""
        return self._exchange.sent_bytes

    @property
    def received_bytes(self) -> int:
        """What the messages took that came."""
        return self._exchange.received_bytes

    @property
    def resent_bytes(self) -> int:
        """What had to be sent once more because a connection broke; beside :attr:`sent_bytes`."""
        return self._exchange.resent_bytes

    @property
    def kept_bytes(self) -> int:
        """What is held because the other end has not yet told that it has it."""
        return self._exchange.kept_bytes

    @property
    def standing(self) -> bool:
        """Whether an incarnation stands, as far as we know."""
        return self._life is not None

    @property
    def writable(self) -> bool:
        """Whether a message sent now begins to leave at once, but for a limit. Whoever sends in bulk asks first; that
        bounds the memory."""
        room = not self.throttled and self._exchange.idle and self._exchange.may_send_bytes > 0
        return room and self._life is not None

    @property
    def throttled(self) -> bool:
        """Whether something waits for the limit alone."""
        return self._outlet.throttled

    @property
    def congested(self) -> bool:
        """Whether the network keeps the next message from leaving: neither a limit nor the other mover, which has most
        of what may be on its way and is not done with it."""
        return not (self.writable or self.throttled) and not (self.standing and self._exchange.peer_is_behind)

    @property
    def under_way(self) -> bool:
        """Whether something that was said is not known to have come. The other end tells that in time for its window
        only, or by :meth:`confirm`."""
        return not self._exchange.acknowledged

    def limit(self, bytes_per_s: int | None) -> None:
        """Send no more than this from now on, all streams together; None: as fast as it goes."""
        self._outlet.limit(bytes_per_s)
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
        Without credit the message waits inside the connection, unless it is ``urgent``: the last words of a mover,
        which are said once and not repeated if the connection is lost with them.
        """
        plain = b"".join((_BODY_LENGTH.pack(len(body)), body, *payload))
        message = Message(next(self._spread) if spread else 0, plain, ciphertext)
        if message.cost > MAX_PLAIN_BYTES + OVERHEAD_BYTES:
            limit = MAX_PLAIN_BYTES + OVERHEAD_BYTES
            raise ValueError(f"a message of {message.cost} bytes is above the limit of {limit}")
        if not urgent:
            self._exchange.say(message)
            self._push()
        elif self._life is not None:
            self._life.send(message.stream, RecordKind.WORDS, plain)
        return message.cost

    def receive(self) -> Incoming | None:
        """The next message, or None if none has arrived.

        Raises :class:`ConnectionLost` once all that arrived before the end has been handed out and no other
        incarnation stands in time, and :class:`RecordRejected`; both retryable on a new connection.
        """
        incoming, goodbye = self._take_next()
        if goodbye:
            self._fail(ConnectionLost(peer=self.peer, reason="the other mover ended"))
        if incoming is None and self._life is None and self._clock() >= self._give_up_at:
            self._fail(ConnectionLost(peer=self.peer, reason=self._lost_reason))
        return incoming

    def release(self, cost_bytes: int) -> None:
        """Say that messages worth ``cost_bytes`` are consumed, so that the peer may send as much again."""
        self._exchange.release(cost_bytes)
        if self._exchange.worth_telling:
            self.confirm()

    def confirm(self) -> None:
        """Tell at once what has come, for a peer that has said all that it had to say."""
        if self._life is not None:
            self._life.send(0, RecordKind.CREDIT, self._exchange.tell().encode())

    def wait(self, timeout_s: float, fds: Iterable[int] = ()) -> None:
        """Wait until there may be something to receive, one of ``fds`` is readable, or the time is over.

        Also sends heartbeats and resumes what is lost, so it must be called every few seconds.
        """
        timeout_s = min(timeout_s, self._heartbeat_s)
        if self._life is None:
            self._seek(timeout_s, fds)
            return
        self._life.send_heartbeats(self._heartbeat_s)
        if self.throttled:
            self._push()
            # What has left just now makes room for more, which nobody need wait for.
            timeout_s = min(timeout_s, self._outlet.delay_s()) if self.throttled else 0.0
        self._life.wire.wait(timeout_s, fds)
        self._push()

    def check_alive(self) -> None:
        """Look whether a stream has been silent for too long, and begin to resume if so.

        Called when nothing more can be received, so that messages which merely wait for us do not count as silence.
        """
        reason = self._life.silence(self._timeouts) if self._life is not None else None
        if reason is not None:
            self._lose(reason, elsewhere=True)

    def part(self, timeout_s: float, fds: Iterable[int] = ()) -> bool:
        """One step of ending in good order: what was sent arrives, on another incarnation if this one is lost, and
        both say goodbye. True once that is done, or cannot be done in time; then all is closed.

        Reading on until the peer's goodbye matters: a TCP connection that is closed with something unread is reset,
        and a reset makes the other kernel forget what it had received but not handed out.
        """
        if self._ended:
            return True
        now = self._clock()
        if self._part_by is None:
            self.limit(None)
            unheard = not self._exchange.acknowledged
            self._part_by = now + max(_LINGER_S, self._timeouts.resume_s if unheard else 0.0)
        patient = self._timeouts.resume_s > 0 and not self._exchange.idle
        if self._life is not None and self._life is not self._goodbye_in and not patient:
            self._goodbye_in = self._life
            self._life.send(0, RecordKind.BYE, b"")
        self.wait(min(timeout_s, max(0.0, self._part_by - now)), fds)
        try:
            while self._take_next()[0] is not None:
                pass
        except RecordRejected:
            self._heard_goodbye = True  # what cannot be trusted ends the waiting as well
        nothing_left = self._life is None and self._clock() >= self._give_up_at
        if self._heard_goodbye or nothing_left or self._clock() >= self._part_by:
            self._end(0 if self._life is None or self._life.gone else _LINGER_S)
        else:
            self.check_alive()
        return self._ended

    def close(self) -> None:
        """End in good order, within a few seconds: :meth:`part`, but no lost connection is resumed. Idempotent."""
        self._timeouts = msgspec.structs.replace(self._timeouts, resume_s=0.0)
        if self._life is None:
            self._end(0)
        while not self.part(_LINGER_S):
            pass

    def abort(self) -> None:
        """End at once, dropping what has not left. Idempotent."""
        self._end(0)

    # --- incarnations -----------------------------------------------------------------------------------------------

    def _adopt(self, life: Incarnation) -> None:
        self.resumed += self._give_up_at > 0
        self._life, self.peer = life, life.peer
        self._adopted_at = self._clock()
        try:
            self._exchange.resume(life.totals)
        except RecordRejected as error:
            self._fail(error)
        self._exchange.tell()  # which the handshake has done
        self._push()

    def _lose(self, reason: str, *, elsewhere: bool = False) -> None:
        self._forget(reason)
        self._opening.abandon(elsewhere=elsewhere)

    def _forget(self, reason: str) -> None:
        """The incarnation is over. Time to resume runs anew only if it stood or brought something."""
        self._life, self._lost_reason = None, reason
        self._outlet.cut_off()
        now = self._clock()
        stood = now - self._adopted_at > self._timeouts.silence_s
        if stood or self._exchange.progress != self._progress_when_lost:
            self._progress_when_lost = self._exchange.progress
            self._give_up_at = now + self._timeouts.resume_s

    def _seek(self, timeout_s: float, fds: Iterable[int]) -> None:
        left_s = self._give_up_at - self._clock()
        if left_s <= 0:
            return
        try:
            life = self._opening.next(min(timeout_s, left_s), fds, self._exchange.totals)
        except HoldfastError:
            self.abort()
            raise
        if life is not None:
            self._adopt(life)

    # --- in ---------------------------------------------------------------------------------------------------------

    def _take_next(self) -> tuple[Incoming | None, bool]:
        """The next message, if there is one; and whether the other end says goodbye, after which nothing comes."""
        while not self._heard_goodbye:
            if self._opening.waiting:
                self._forget("the other mover has opened another one")
                self._seek(0, ())
            if self._life is None:
                break
            try:
                record = self._life.receive()
                if record is None and self._opening.waiting:
                    continue
                if record is None:
                    break
                incoming = self._take(self._life.streams[record.stream], record)
            except RecordRejected as error:
                self._fail(error)
            if incoming is not None:
                return incoming, False
        if self._life is not None and self._life.gone and not self._heard_goodbye:
            self._lose("the connection was closed")
        return None, self._heard_goodbye

    def _take(self, stream: Stream, record: Record) -> Incoming | None:
        kind, plain = record.kind, record.plain
        if kind is RecordKind.CREDIT:
            self._exchange.told(Totals.decode(plain, self._streams))
            self._push()
        elif kind is RecordKind.BYE:
            self._heard_goodbye = True
        elif kind is RecordKind.WORDS:
            return _opened(plain, b"", 0)
        elif kind in (RecordKind.MESSAGE, RecordKind.CARRIER):
            return self._take_message(record.stream, plain, record.ciphertext)
        elif kind in (RecordKind.PART, RecordKind.LAST):
            stream.arriving += plain
            if len(stream.arriving) > MAX_PLAIN_BYTES:
                raise RecordRejected(reason="the parts of a message are more than a message may have")
            if kind is RecordKind.LAST:
                whole, stream.arriving = stream.arriving, bytearray()
                return self._take_message(record.stream, memoryview(whole), b"")
        elif kind is not RecordKind.HEARTBEAT:
            raise RecordRejected(reason=f"a record of kind {kind.name} has no place here")
        return None

    def _take_message(self, stream: int, plain: memoryview, ciphertext: Buffer) -> Incoming:
        incoming = _opened(plain, ciphertext, len(plain) + len(ciphertext) + OVERHEAD_BYTES)
        self._exchange.heard(stream, incoming.cost_bytes)
        if self._exchange.worth_telling:
            self.confirm()
        return incoming

    def _push(self) -> None:
        if self._life is not None:
            self._outlet.push(self._life)

    # --- the end ----------------------------------------------------------------------------------------------------

    @property
    def _streams(self) -> int:
        return len(self._exchange.totals.received)

    def _end(self, linger_s: float) -> None:
        if not self._ended:
            self.broken = self._life is None or self._life.gone
            self._ended, self._life = True, None
            self._opening.close(linger_s)

    def _fail(self, error: ConnectionLost | RecordRejected) -> NoReturn:
        self.abort()
        raise error


def _opened(plain: memoryview, ciphertext: Buffer, cost_bytes: int) -> Incoming:
    """The message inside a record. Raises :class:`RecordRejected` if it is cut."""
    start = _BODY_LENGTH.size
    length = _BODY_LENGTH.unpack_from(plain)[0] if len(plain) >= start else len(plain) + 1
    if start + length > len(plain):
        raise RecordRejected(reason="the message inside is cut")
    payload = memoryview(ciphertext) if len(ciphertext) else plain[start + length :]
    return Incoming(plain[start : start + length], payload, cost_bytes)
