"""Leases by themselves, with a clock of the test's own."""

from __future__ import annotations

import pytest

from holdfast_agent.channel.control_server import Connection
from holdfast_agent.errors import LeaseUnknown, Locked, UsageError
from holdfast_agent.service import leases
from holdfast_agent.service.leases import LeaseTable
from holdfast_manager.settings import TimingSettings

ONE, TWO = Connection(b"1", "A" * 40), Connection(b"2", "B" * 40)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> LeaseTable:
    return LeaseTable(clock)


def test_a_lease_ends_when_nobody_renews_it(table: LeaseTable, clock: Clock) -> None:
    lease = table.renew(ONE, "l", 10)
    clock.now += 9.9
    assert table.take_expired() == []
    table.renew(ONE, "l", 10)
    clock.now += 9.9
    assert table.take_expired() == []
    clock.now += 0.1
    assert table.take_expired() == [lease]
    assert lease.closed
    with pytest.raises(LeaseUnknown):
        table.get(ONE.key, "l")


@pytest.mark.parametrize("timing", [TimingSettings(), TimingSettings(lease_ttl=5.0, heartbeat=5.0 / 3)], ids=str)
def test_a_session_that_lives_loses_no_lease_though_each_renewal_takes_all_of_its_time(
    table: LeaseTable, clock: Clock, timing: TimingSettings
) -> None:
    """Another agent that hangs holds each round of renewals up for half of a lease, as the session allows. One that
    dies is found out within one lease."""
    ttl = timing.lease_ttl
    lease = table.renew(ONE, "l", ttl)
    for _ in range(100):
        clock.now += ttl / 2 + timing.heartbeat
        assert table.take_expired() == []
        table.renew(ONE, "l", ttl)
    clock.now += ttl
    assert table.take_expired() == [lease]


def test_renewing_from_another_connection_adopts_it(table: LeaseTable) -> None:
    lease = table.renew(ONE, "l", 10)
    back = Connection(b"3", ONE.key)
    assert table.renew(back, "l", 10) is lease
    assert lease.connection is back


def test_the_same_name_of_another_key_is_another_lease(table: LeaseTable) -> None:
    mine, theirs = table.renew(ONE, "l", 10), table.renew(TWO, "l", 10)
    assert mine is not theirs
    assert table.take(TWO.key, "l") is theirs
    assert table.get(ONE.key, "l") is mine
    assert table.take(TWO.key, "l") is None


def test_leases_of_a_revoked_key(table: LeaseTable) -> None:
    mine, theirs = table.renew(ONE, "l", 10), table.renew(TWO, "l", 10)
    assert table.take_of_others(lambda key: key == ONE.key) == [theirs]
    assert table.take_all() == [mine]
    assert len(table) == 0


def test_the_number_of_leases_of_a_manager_is_bounded(table: LeaseTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_LEASES_PER_KEY", 2)
    table.renew(ONE, "a", 10)
    table.renew(ONE, "b", 10)
    with pytest.raises(Locked):
        table.renew(ONE, "c", 10)
    table.renew(ONE, "a", 10)
    table.renew(TWO, "c", 10)


@pytest.mark.parametrize("ttl_s", [4.9, 3601.0, float("nan")])
def test_a_time_out_of_range(table: LeaseTable, ttl_s: float) -> None:
    with pytest.raises(UsageError):
        table.renew(ONE, "l", ttl_s)
    assert len(table) == 0
