"""Backups hold back on datastores that take long to answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.errors import HypervisorUnreachable
from holdfast_agent.model.units import MIB
from holdfast_manager.catalog.values import ServerLimits
from holdfast_manager.sessions import storage_care
from holdfast_manager.sessions.events import TaskKey
from holdfast_manager.sessions.storage_care import FIRST_RATE, LEAST_RATE, StorageCare, next_rate
from holdfast_manager.traffic.shares import UNLIMITED, Share

LIMITS = ServerLimits(latency_ms=20, throttle_latency_ms=30)
ONE, TWO = TaskKey("vm", "one"), TaskKey("vm", "two")


class Measured:
    """The one thing that is asked of a driver. ``ms`` None: it cannot be reached."""

    def __init__(self, **ms: float) -> None:
        self.ms: Mapping[str, float] | None = ms
        self.asked: list[set[str]] = []

    def latencies_ms(self, datastores: Collection[str]) -> Mapping[str, float]:
        self.asked.append(set(datastores))
        if self.ms is None:
            raise HypervisorUnreachable(server="lab", reason="gone")
        return self.ms


class Session:
    """What happens in one."""

    def __init__(self, driver: object, limits: ServerLimits = LIMITS) -> None:
        self.now = 0.0
        self.shares: list[tuple[TaskKey, Share]] = []
        self.told: dict[TaskKey, str] = {}
        self.started: list[TaskKey] = []
        self.care = StorageCare(
            driver,  # type: ignore[arg-type] # it is asked for nothing else
            limits,
            lambda task, share: self.shares.append((task, share)),
            self.told.__setitem__,
            lambda: self.now,
        )

    def start(self, task: TaskKey, datastore: str = "ssd") -> None:
        self.care.start(task, datastore, lambda: self.started.append(task))


def test_a_task_waits_until_the_datastore_is_quick_enough() -> None:
    driver = Measured(ssd=34.0, hdd=5.0)
    session = Session(driver)
    session.start(ONE)
    session.start(TWO, "hdd")
    assert session.started == [TWO]
    assert session.told == {ONE: "datastore ssd answers in 34 ms, and 20 are the limit"}
    assert len(driver.asked) == 1, "it is not asked for each task"
    session.care.look()
    assert session.started == [TWO]
    driver.ms = {"ssd": 20.0}
    session.care.look()
    session.care.look()
    assert session.started == [TWO, ONE]


def test_a_task_that_is_stopped_while_it_waits_never_starts() -> None:
    driver = Measured(ssd=34.0)
    session = Session(driver)
    session.start(ONE)
    session.care.forget(ONE)
    driver.ms = {}
    session.care.look()
    assert not session.started


def test_tasks_that_read_from_a_slow_one_are_slowed_down_and_let_go_again() -> None:
    driver = Measured(ssd=31.0, hdd=1.0)
    session = Session(driver)
    session.care.transfers(ONE, "ssd")
    session.care.transfers(TWO, "hdd")
    session.care.look()
    session.care.look()
    assert [(task, share.bytes_per_s) for task, share in session.shares] == [(ONE, FIRST_RATE), (ONE, FIRST_RATE // 2)]
    assert "ssd answers in 31 ms" in session.shares[0][1].by
    driver.ms = {"ssd": 30.0}
    session.care.look()
    session.care.look()
    session.care.look()
    assert [share.bytes_per_s for _, share in session.shares[2:]] == [FIRST_RATE, None]
    assert session.shares[-1] == (ONE, UNLIMITED)


@pytest.mark.parametrize("driver", [Measured(), object()], ids=["not measured", "no such driver"])
def test_what_nobody_measures_is_not_limited(driver: object) -> None:
    session = Session(driver)
    session.start(ONE)
    session.care.transfers(ONE, "ssd")
    session.care.look()
    assert (session.started, session.shares) == ([ONE], [])


def test_a_server_that_cannot_be_asked_holds_nobody_back() -> None:
    driver = Measured(ssd=99.0)
    session = Session(driver)
    session.start(ONE)
    driver.ms = None
    session.care.look()
    assert session.started == [ONE]


def test_without_limits_nothing_is_asked() -> None:
    driver = Measured(ssd=99.0)
    session = Session(driver, ServerLimits())
    session.start(ONE)
    session.care.transfers(ONE, "ssd")
    session.care.tick()
    assert (session.started, driver.asked) == ([ONE], [])


def test_a_tick_looks_when_it_is_time_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Measured(ssd=34.0)
    session = Session(driver)
    session.start(ONE)
    begun: list[str] = []

    class Thread:
        def __init__(self, **_: object) -> None: ...

        def start(self) -> None:
            begun.append("looks")

    monkeypatch.setattr(storage_care.threading, "Thread", Thread)
    session.care.tick()
    assert not begun
    session.now = storage_care.LOOK_EVERY_S
    session.care.tick()
    session.care.tick()
    assert len(begun) == 1, "one at a time"


@given(st.lists(st.floats(0, 1000), max_size=40))
def test_whatever_is_measured_a_rate_stays_in_its_bounds_and_comes_back(latencies: list[float]) -> None:
    rate: int | None = None
    for latency in latencies:
        rate = next_rate(latency, 30, rate)
        assert rate is None or LEAST_RATE <= rate <= FIRST_RATE
    for _ in range(8):
        rate = next_rate(0, 30, rate)
    assert rate is None
    assert LEAST_RATE == MIB
