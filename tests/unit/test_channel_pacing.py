"""A limit is kept over any two seconds, however small it is and however large the messages are."""

from __future__ import annotations

import pytest

from holdfast_agent.channel.data_pacing import Pacer

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _send(pacer: Pacer, clock: Clock, seconds: float, late_s: float = 0.0) -> list[tuple[float, int]]:
    """What leaves when all there is to send is sent as soon as the pacer agrees, woken up ``late_s`` too late."""
    sent: list[tuple[float, int]] = []
    while clock.now < seconds:
        delay_s = pacer.delay_s()
        if delay_s:
            clock.now += delay_s + late_s
        else:
            pacer.spent(pacer.part_bytes)
            sent.append((clock.now, pacer.part_bytes))
    return sent


@pytest.mark.parametrize("rate", [64 << 10, 300_000, 10 * MIB, 100 * MIB, 1 << 30])
@pytest.mark.parametrize("late_s", [0.0, 0.004, 0.02])
def test_any_two_seconds_are_within_five_percent(rate: int, late_s: float) -> None:
    clock = Clock()
    pacer = Pacer(clock)
    pacer.change(rate)
    clock.now = 60.0  # idle: what was not used then is not sent in a burst
    sent = _send(pacer, clock, 90.0, late_s)
    for begin in (60.0, 60.7, 71.3, 87.9):
        in_window = sum(size for at, size in sent if begin <= at < begin + 2)
        assert 0.95 * 2 * rate <= in_window <= 1.05 * 2 * rate


def test_parts_are_small_under_a_small_limit_and_messages_whole_without_one() -> None:
    pacer = Pacer(Clock())
    assert pacer.part_bytes > 4 * MIB
    pacer.change(64 << 10)
    assert 1024 <= pacer.part_bytes <= 4096
    pacer.change(1)
    assert pacer.part_bytes == 1024


def test_a_change_holds_at_once() -> None:
    clock = Clock()
    pacer = Pacer(clock)
    pacer.change(1)
    pacer.spent(1024)
    assert pacer.delay_s() == 1024
    pacer.change(1_000_000)
    assert pacer.delay_s() == 0
    pacer.spent(1_000_000)
    pacer.change(None)
    assert pacer.delay_s() == 0
