"""However often a connection breaks, each message is handed over once, in its stream's order, and memory is bounded."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast_agent.channel.data_exchange import Exchange, Message, Totals
from holdfast_agent.errors import RecordRejected

WINDOW = 1000
LARGEST = 400
STREAMS = 3
ENDS = st.integers(0, 1)
COST = 32


class InFlight(NamedTuple):
    """On its way by one stream: a whole message's text, the first part of one, or totals."""

    text: bytes | None
    totals: Totals | None


class End:
    """One end as a connection uses it, and what its user said and heard."""

    def __init__(self) -> None:
        self.exchange = Exchange(STREAMS, WINDOW, WINDOW)
        self.said: list[list[bytes]] = [[] for _ in range(STREAMS)]
        self.heard: list[list[bytes]] = [[] for _ in range(STREAMS)]
        self.unconsumed: deque[int] = deque()
        self.leaving: Message | None = None
        self.standing = True
        self.to_peer: list[deque[InFlight]] = [deque() for _ in range(STREAMS)]

    def say(self, stream: int, size: int) -> None:
        text = f"{stream}.{len(self.said[stream])}".encode().ljust(size, b".")
        self.said[stream].append(text)
        self.exchange.say(Message(stream, text))

    def send(self, whole: bool) -> None:
        """Let a message leave, or only its first part."""
        message = self.leaving or self.exchange.next()
        if message is None:
            return
        self.leaving = None if whole else message
        if whole:
            self.exchange.gone(message)
            self.to_peer[message.stream].append(InFlight(message.plain, None))

    def take(self, arrived: InFlight, stream: int) -> None:
        if arrived.totals is not None:
            self.exchange.told(arrived.totals)
        if arrived.text is not None:
            self.heard[stream].append(arrived.text)
            self.exchange.heard(stream, len(arrived.text) + COST)
            self.unconsumed.append(len(arrived.text) + COST)
        self.tell()

    def consume(self) -> None:
        if self.unconsumed:
            self.exchange.release(self.unconsumed.popleft())
            self.tell()

    def tell(self) -> None:
        if self.standing and self.exchange.worth_telling:
            self.to_peer[0].append(InFlight(None, self.exchange.tell()))

    def break_off(self) -> None:
        self.leaving, self.standing = None, False
        for stream in self.to_peer:
            stream.clear()


def standing(machine: TwoEnds) -> bool:
    return machine.ends[0].standing


class TwoEnds(RuleBasedStateMachine):
    """A connection that breaks at any moment, with anything on its way, as seen by both ends' users."""

    @initialize()
    def begin(self) -> None:
        self.ends = End(), End()

    @rule(end=ENDS, stream=st.integers(0, STREAMS - 1), size=st.integers(5, LARGEST), count=st.integers(1, 6))
    def say(self, end: int, stream: int, size: int, count: int) -> None:
        for _ in range(count):
            self.ends[end].say(stream, size)

    @precondition(standing)
    @rule(end=ENDS, count=st.integers(0, 6), part=st.booleans())
    def send(self, end: int, count: int, part: bool) -> None:
        for _ in range(count):
            self.ends[end].send(whole=True)
        if part:
            self.ends[end].send(whole=False)

    @precondition(standing)
    @rule(end=ENDS, stream=st.integers(0, STREAMS - 1), count=st.integers(1, 6))
    def arrive(self, end: int, stream: int, count: int) -> None:
        """Some of what is on its way to the other end arrives; streams overtake each other."""
        on_its_way = self.ends[end].to_peer[stream]
        for _ in range(min(count, len(on_its_way))):
            self.ends[1 - end].take(on_its_way.popleft(), stream)

    @rule(end=ENDS, count=st.integers(1, 6))
    def consume(self, end: int, count: int) -> None:
        """Also while nothing stands: a repository goes on storing."""
        for _ in range(count):
            self.ends[end].consume()

    @precondition(standing)
    @rule()
    def break_off(self) -> None:
        for end in self.ends:
            end.break_off()

    @precondition(lambda self: not standing(self))
    @rule()
    def resume(self) -> None:
        """The handshake: each tells what it has, after nothing of the old connection is heard any more."""
        one, two = self.ends
        one.exchange.resume(two.exchange.tell())
        two.exchange.resume(one.exchange.tell())
        one.standing = two.standing = True

    @invariant()
    def each_hears_what_the_other_said_once_and_in_order(self) -> None:
        for one, two in (self.ends, self.ends[::-1]):
            for said, heard in zip(one.said, two.heard, strict=True):
                assert heard == said[: len(heard)]

    @invariant()
    def memory_is_bounded(self) -> None:
        for one, two in (self.ends, self.ends[::-1]):
            assert one.exchange.kept_bytes <= WINDOW + LARGEST
            assert sum(two.unconsumed) <= WINDOW + LARGEST + COST

    @invariant()
    def nothing_that_has_arrived_is_sent_again(self) -> None:
        for one, two in (self.ends, self.ends[::-1]):
            for on_its_way, heard in zip(one.to_peer, two.heard, strict=True):
                assert not {each.text for each in on_its_way if each.text is not None} & set(heard)

    def teardown(self) -> None:
        """Left in peace, all that was said is heard, and both know it."""
        if not hasattr(self, "ends"):
            return
        if not standing(self):
            self.resume()
        said = sum(len(stream) for end in self.ends for stream in end.said)
        for _ in range(10 * said + 10):
            for end in (0, 1):
                self.ends[end].send(whole=True)
                for stream in range(STREAMS):
                    self.arrive(end, stream, 5)
                self.consume(end, 1)
        for one, two in (self.ends, self.ends[::-1]):
            assert two.heard == one.said
        self.break_off()
        self.resume()
        assert all(end.exchange.acknowledged and not end.exchange.kept_bytes for end in self.ends)


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def test_what_cannot_be_is_refused() -> None:
    end = Exchange(1, WINDOW, WINDOW)
    end.say(Message(0, b"one"))
    for lie in (Totals(0, (1,)), Totals(1, (0,))):
        with pytest.raises(RecordRejected):
            end.told(lie)
        with pytest.raises(RecordRejected):
            end.resume(lie)
    message = end.next()
    assert message is not None
    with pytest.raises(RecordRejected):  # half of it is not all of it
        end.resume(Totals(0, (1,)))
    end.gone(message)
    end.told(Totals(message.cost, (1,)))
    with pytest.raises(RecordRejected):  # nobody forgets what he had
        end.resume(Totals(message.cost, (0,)))
    with pytest.raises(RecordRejected):
        Totals.decode(Totals(0, (0, 0)).encode(), 1)


def test_many_small_messages_are_acknowledged_long_before_the_window_is_full() -> None:
    end = Exchange(1, 1 << 24, 1 << 24)
    for _ in range(256):
        assert not end.worth_telling
        end.heard(0, 40)
    assert end.worth_telling
    assert end.tell() == Totals(0, (256,))
    assert not end.worth_telling


def test_a_sender_without_credit_knows_whether_the_line_or_the_peer_is_behind() -> None:
    near, far = (Exchange(1, 1 << 24, 1 << 24) for _ in range(2))
    size = (1 << 21) - COST
    for _ in range(8):  # all that may be on its way
        near.say(Message(0, bytes(size)))
        message = near.next()
        assert message is not None
        near.gone(message)
    assert near.may_send_bytes == 0 and not near.peer_is_behind, "nothing has come: it is the line"
    for number in range(8):
        far.heard(0, size + COST)
        assert far.worth_telling, "also when nothing was consumed"
        near.told(far.tell())
        assert near.peer_is_behind == (number >= 4)
    far.release(4 * (size + COST))
    near.told(far.tell())
    assert not near.peer_is_behind
