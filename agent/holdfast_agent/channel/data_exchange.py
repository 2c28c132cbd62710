"""What both ends of a data connection have said and heard, whatever TCP connection carries it at the moment.

Pure: no sockets, no keys, no clock. These hold at any time, and :mod:`data_connection` only moves bytes:

- The messages of a stream are numbered by their order alone. Each is handed out at the other end exactly once, in
  that order, however often the connection breaks: whoever resumes says how many messages of each stream it has, and
  the other goes on with the next one. Half a message counts as none.
- What was sent is kept until the other end has told that it has it; nothing else is ever sent again.
- All that the ends tell each other are totals since the beginning, never differences. So what is lost with a
  connection is told by whatever is told next.
- A message is paid for once, when it is first begun. What is kept is therefore never more than the window that the
  other end granted, and one message.
"""

from __future__ import annotations

import struct
from collections import deque

import msgspec

from holdfast_agent.errors import RecordRejected

from .data_records import MAX_FRAME_BYTES, OVERHEAD_BYTES, Buffer

_TELL_AFTER_MESSAGES = 256
"""Small messages take more memory than their bytes say; told so often, few of them are kept."""


class Totals(msgspec.Struct, frozen=True):
    """What one end tells the other: the cost of all that it has consumed, and how many whole messages of each stream
    have come."""

    released_bytes: int
    received: tuple[int, ...]

    def encode(self) -> bytes:
        return struct.pack(f"<{1 + len(self.received)}Q", self.released_bytes, *self.received)

    @classmethod
    def decode(cls, plain: Buffer, streams: int) -> Totals:
        """Raises :class:`RecordRejected` unless it is that of so many streams."""
        if len(plain) != 8 * (1 + streams):
            raise RecordRejected(reason="the totals are not those of this connection's streams")
        released, *received = struct.unpack(f"<{1 + streams}Q", plain)
        return cls(released, tuple(received))


class Message(msgspec.Struct):
    """A message on its way out. ``left``: how much of it has left on the connection that stands."""

    stream: int
    plain: bytes
    ciphertext: Buffer = b""
    place: int = 0
    left: int = 0

    @property
    def size(self) -> int:
        return len(self.plain) + len(self.ciphertext)

    @property
    def cost(self) -> int:
        """What it takes of the receiver's credit."""
        return self.size + OVERHEAD_BYTES


class _Lane:
    """One stream's messages: out, those begun and not yet acknowledged; in, how many have come."""

    def __init__(self) -> None:
        self.kept: deque[Message] = deque()
        self.acknowledged = 0
        self.following = 0  # number of the message that leaves next, or is leaving
        self.most = 0  # the highest that ``following`` ever was: nobody can have more
        self.received = 0

    def acknowledge(self, received: int, most: int) -> int:
        """The other end has so many messages by now; the cost of those that are new."""
        if not self.acknowledged <= received <= most:
            raise RecordRejected(reason="the peer tells of messages that it cannot have")
        cost = sum(self.kept.popleft().cost for _ in range(received - self.acknowledged))
        self.acknowledged = received
        return cost


class Exchange:
    """One end. ``send_window_bytes`` is what the peer granted, ``receive_window_bytes`` what we granted."""

    def __init__(self, streams: int, send_window_bytes: int, receive_window_bytes: int) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self.resent_bytes = 0
        self._send_window = send_window_bytes
        self._receive_window = receive_window_bytes
        self._lanes = [_Lane() for _ in range(streams)]
        self._unsent: deque[Message] = deque()
        self._again: deque[Message] = deque()
        self._places = 0
        self._peer_received = 0
        self._peer_released = 0
        self._released = 0
        self._told = Totals(0, (0,) * streams)
        self._told_received_bytes = 0

    # --- out --------------------------------------------------------------------------------------------------------

    @property
    def may_send_bytes(self) -> int:
        """The credit that is left; below zero where the last message began with little."""
        return self._send_window + self._peer_released - self.sent_bytes

    @property
    def idle(self) -> bool:
        """Whether nothing waits to begin."""
        return not self._unsent and not self._again

    @property
    def acknowledged(self) -> bool:
        """Whether the other end has told that it has all that was ever said."""
        return self.idle and not any(lane.kept for lane in self._lanes)

    @property
    def peer_is_behind(self) -> bool:
        """Whether most of the window is at the other end already, not yet consumed there: what waits for credit then
        waits for the peer, and no faster network would help it."""
        return 2 * (self._peer_received - self._peer_released) > self._send_window

    @property
    def kept_bytes(self) -> int:
        """What is held for sending it once more."""
        return sum(message.size for lane in self._lanes for message in lane.kept)

    @property
    def progress(self) -> int:
        """Grows with every message that was handed over, in either direction."""
        return sum(lane.acknowledged + lane.received for lane in self._lanes)

    def say(self, message: Message) -> None:
        """A message to be sent when its turn comes and there is credit."""
        self._places += 1
        message.place = self._places
        self._unsent.append(message)

    def next(self) -> Message | None:
        """The message to begin now; what is sent again comes first. The caller must send it to its end."""
        if self._again:
            message = self._again.popleft()
            self.resent_bytes += message.cost
            return message
        if not self._unsent or self.may_send_bytes <= 0:
            return None
        message = self._unsent.popleft()
        self.sent_bytes += message.cost
        self._lanes[message.stream].kept.append(message)
        return message

    def gone(self, message: Message) -> None:
        """All of a message has left."""
        lane = self._lanes[message.stream]
        lane.following += 1
        lane.most = max(lane.most, lane.following)

    def told(self, totals: Totals) -> None:
        """The other end has told its totals. Raises :class:`RecordRejected` for what cannot be."""
        self._credit(totals.released_bytes)
        for lane, received in zip(self._lanes, totals.received, strict=True):
            self._peer_received += lane.acknowledge(received, lane.following)

    def resume(self, totals: Totals) -> None:
        """A new connection stands, and the other end has told its totals: go on behind what it has.

        Raises :class:`RecordRejected` for what cannot be.
        """
        self._credit(totals.released_bytes)
        for lane, received in zip(self._lanes, totals.received, strict=True):
            self._peer_received += lane.acknowledge(received, lane.most)
            lane.following = received
        kept = [message for lane in self._lanes for message in lane.kept]
        for message in kept:
            message.left = 0
        self._again = deque(sorted(kept, key=lambda message: message.place))

    def _credit(self, released_bytes: int) -> None:
        if not self._peer_released <= released_bytes <= self.sent_bytes:
            raise RecordRejected(reason="the peer tells of credit that cannot be")
        self._peer_released = released_bytes

    # --- in ---------------------------------------------------------------------------------------------------------

    def heard(self, stream: int, cost_bytes: int) -> None:
        """A whole message has come. Raises :class:`RecordRejected` for more than was granted."""
        self._lanes[stream].received += 1
        self.received_bytes += cost_bytes
        owed = self._told.released_bytes + self._receive_window - self.received_bytes
        if owed < -MAX_FRAME_BYTES - OVERHEAD_BYTES:  # the last message may begin with one byte of credit
            raise RecordRejected(reason="the peer sent more than its credit")

    def release(self, cost_bytes: int) -> None:
        """Messages worth this were consumed."""
        self._released += cost_bytes

    @property
    def worth_telling(self) -> bool:
        """Whether enough has come or was consumed since the last time that the totals were told."""
        received = sum(lane.received for lane in self._lanes)
        much = self._receive_window // 8
        return (
            self._released - self._told.released_bytes >= much
            or self.received_bytes - self._told_received_bytes >= much
            or received - sum(self._told.received) >= _TELL_AFTER_MESSAGES
        )

    @property
    def totals(self) -> Totals:
        """What there is to tell now."""
        return Totals(self._released, tuple(lane.received for lane in self._lanes))

    def tell(self) -> Totals:
        """The totals, which the caller sends."""
        self._told, self._told_received_bytes = self.totals, self.received_bytes
        return self._told
