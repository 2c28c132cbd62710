"""The line between two movers of one process: messages as they are, credit and limits as on the network."""

from __future__ import annotations

import os
import time

from holdfast_agent.mover.line import LocalLine


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_messages_come_in_order_and_bulk_is_not_copied() -> None:
    one, other = LocalLine.pair()
    sealed = bytes(100)
    one.send(b"first", [b"a", b"b"])
    one.send(b"second", ciphertext=sealed, spread=True)
    other.send(b"back")
    first, second = other.receive(), other.receive()
    assert first is not None and second is not None
    assert (first.body, first.payload) == (b"first", b"ab")
    assert second.payload.obj is sealed
    assert other.receive() is None
    back = one.receive()
    assert back is not None
    assert back.body == b"back"


def test_whoever_sends_waits_until_what_was_sent_is_consumed() -> None:
    one, other = LocalLine.pair(window_bytes=1000)
    one.send(b"x", ciphertext=bytes(999))
    assert not one.writable and other.writable
    assert not one.congested, "it waits for the other role: there is no network"
    incoming = other.receive()
    assert incoming is not None
    assert not one.writable  # read is not consumed
    other.release(incoming.cost_bytes)
    assert one.writable


def test_a_limit_holds_on_the_average_and_can_be_lifted() -> None:
    clock = Clock()
    one, other = LocalLine.pair(clock=clock)
    one.limit(1000)
    came = 0
    while clock.now < 60:
        while one.writable:
            one.send(b"x", ciphertext=bytes(499))
        clock.now += 0.01
        one.wait(0)
        while (incoming := other.receive()) is not None:
            came += incoming.cost_bytes
            other.release(incoming.cost_bytes)
    assert 0.98 * 60_000 <= came <= 1.02 * 60_000
    one.send(b"x", ciphertext=bytes(499))
    assert one.throttled and other.receive() is None
    one.limit(None)
    assert one.writable and other.receive() is not None


def test_waiting_ends_with_a_message_for_either_end_with_a_descriptor_or_with_the_limit() -> None:
    one, other = LocalLine.pair()
    other.send(b"for one")
    began = time.monotonic()
    one.wait(60)
    one.receive()
    one.send(b"for the other")
    one.wait(60)
    other.receive()
    reading, writing = os.pipe()
    os.write(writing, b"x")
    one.wait(60, (reading,))
    one.limit(1000)
    one.send(b"x" * 100)
    one.wait(60)
    assert time.monotonic() - began < 30
    os.close(reading)
    os.close(writing)
