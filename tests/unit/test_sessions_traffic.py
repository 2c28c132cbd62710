"""What a session tells its movers: their share at once, changes at the next look, and again what did not arrive."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from holdfast_agent.errors import ConnectionLost
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionKind, TrafficRule
from holdfast_manager.sessions.events import TaskKey
from holdfast_manager.sessions.routing import Ways
from holdfast_manager.sessions.traffic import SessionTraffic
from holdfast_manager.traffic.ledger import TrafficLedger
from holdfast_manager.traffic.shares import UNLIMITED, Share

A, B = TaskKey("vm", "a"), TaskKey("vm", "b")
RULE = "traffic rule wan"


class Desk:
    """Remembers what each task's movers were told last; they do not answer while ``lost``."""

    def __init__(self) -> None:
        self.told: dict[TaskKey, Share] = {}
        self.messages = 0
        self.lost: set[TaskKey] = set()
        self.target = "10.1.0.1"
        self.fed = ("", "")

    def limit(self, task: TaskKey, share: Share) -> None:
        if task in self.lost:
            raise ConnectionLost(peer="agent", reason="it is not there")
        self.messages += 1
        self.told[task] = share

    def ways(self, task: TaskKey) -> Ways:
        return Ways(("10.0.0.1", self.target), self.fed)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def other_desk() -> Desk:
    return Desk()


@pytest.fixture
def ruled(stocked: Catalog) -> Catalog:
    stocked.traffic_rules.add(TrafficRule(name="wan", target=("10.1.0.0/16",), bandwidth_bytes_per_s=100_000))
    return stocked


def _traffic(catalog: Catalog, clock, desk: Desk) -> SessionTraffic:
    session = catalog.sessions.begin(SessionKind.RESTORE, {}).id
    return SessionTraffic(TrafficLedger(catalog, clock), session, desk)


def _edit(catalog: Catalog, **fields: object) -> None:
    catalog.traffic_rules.update(msgspec.structs.replace(catalog.traffic_rules.get("wan"), **fields))


def test_tasks_of_one_session_share_at_once(ruled: Catalog, clock, desk: Desk) -> None:
    traffic = _traffic(ruled, clock, desk)
    traffic.join(A, 1, writes="main")
    assert desk.told == {A: Share(100_000, RULE)}
    traffic.join(B, 2, writes="main")
    assert desk.told == {A: Share(50_000, RULE), B: Share(50_000, RULE)}
    traffic.leave(A)
    traffic.leave(A)
    assert desk.told[B] == Share(100_000, RULE)
    told = desk.messages
    traffic.look()
    assert desk.messages == told, "nothing is told twice"


def test_sessions_share_within_two_looks(ruled: Catalog, clock, desk: Desk, other_desk: Desk) -> None:
    first, second = _traffic(ruled, clock, desk), _traffic(ruled, clock, other_desk)
    first.join(A, 1)
    second.join(A, 1)
    assert other_desk.told == {A: Share(1, RULE)}
    first.look()
    assert desk.told == {A: Share(50_000, RULE)}
    second.look()
    assert other_desk.told == {A: Share(50_000, RULE)}
    second.leave(A)
    first.look()
    assert desk.told == {A: Share(100_000, RULE)}


def test_an_edited_rule_holds_at_the_next_look_and_a_removed_one_no_longer(ruled: Catalog, clock, desk: Desk) -> None:
    traffic = _traffic(ruled, clock, desk)
    traffic.join(A, 1)
    _edit(ruled, bandwidth_bytes_per_s=7000)
    traffic.look()
    assert desk.told == {A: Share(7000, RULE)}
    ruled.traffic_rules.remove("wan")
    traffic.look()
    assert desk.told == {A: Share(None)}


def test_a_window_that_opens_and_closes_while_tasks_run_is_heeded_at_the_next_look(
    ruled: Catalog, clock, desk: Desk
) -> None:
    """Over midnight of the rule's own zone, which is another day than the manager's."""
    _edit(ruled, windows=("fri 23:30-00:30",), time_zone="Asia/Tokyo")
    clock.now = datetime(2026, 11, 27, 23, 29, 59, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp()
    traffic = _traffic(ruled, clock, desk)
    traffic.join(A, 1)
    assert desk.told == {}
    clock.pass_time(1)
    traffic.look()
    assert desk.told == {A: Share(100_000, RULE)}
    for _ in range(119):
        clock.pass_time(30)
        traffic.renew()
    traffic.look()
    assert desk.told == {A: Share(100_000, RULE)}, "it is Saturday there, but its Friday's window"
    clock.pass_time(30)
    traffic.look()
    assert desk.told == {A: UNLIMITED}


def test_a_limit_of_reading_and_one_of_writing_the_same_repository_are_two(stocked: Catalog, clock, desk: Desk) -> None:
    entry = stocked.repositories.get("main")
    limits = {"read_limit_bytes_per_s": 5000, "write_limit_bytes_per_s": 90_000}
    stocked.repositories.update(msgspec.structs.replace(entry, **limits))
    traffic = _traffic(stocked, clock, desk)
    traffic.join(A, 1, reads="main")
    traffic.join(B, 2, writes="main")
    assert desk.told == {A: Share(5000, "read limit of main"), B: Share(90_000, "write limit of main")}


def test_without_a_limit_nobody_is_told_anything(stocked: Catalog, clock, desk: Desk) -> None:
    traffic = _traffic(stocked, clock, desk)
    traffic.join(A, 1)
    traffic.look()
    assert desk.messages == 0


def test_movers_that_could_not_be_told_count_as_fast_as_they_were(
    ruled: Catalog, clock, desk: Desk, other_desk: Desk
) -> None:
    first, second = _traffic(ruled, clock, desk), _traffic(ruled, clock, other_desk)
    first.join(A, 1)
    desk.lost = {A}
    second.join(A, 1)
    first.look()
    second.look()
    assert other_desk.told == {A: Share(1, RULE)}, "the other one still has all of it"
    desk.lost = set()
    first.look()
    second.look()
    assert desk.told == other_desk.told == {A: Share(50_000, RULE)}


def test_a_raise_that_did_not_arrive_is_told_again(ruled: Catalog, clock, desk: Desk) -> None:
    traffic = _traffic(ruled, clock, desk)
    traffic.join(A, 1)
    traffic.join(B, 2)
    desk.lost = {A}
    traffic.leave(B)
    assert desk.told[A] == Share(50_000, RULE)
    desk.lost = set()
    traffic.look()
    assert desk.told[A] == Share(100_000, RULE)


def test_another_way_is_under_other_rules(ruled: Catalog, clock, desk: Desk) -> None:
    traffic = _traffic(ruled, clock, desk)
    desk.target = "10.7.0.1"
    traffic.join(A, 1)
    assert desk.told == {}
    desk.target = "10.1.0.1"
    traffic.look()
    assert desk.told == {A: Share(100_000, RULE)}


def test_a_session_that_slept_longer_than_its_lease_enters_its_tasks_again(
    ruled: Catalog, clock, desk: Desk, other_desk: Desk
) -> None:
    sleeper, other = _traffic(ruled, clock, desk), _traffic(ruled, clock, other_desk)
    sleeper.join(A, 1)
    clock.pass_time(61)
    other.join(A, 1)
    assert other_desk.told == {A: Share(100_000, RULE)}
    sleeper.look()
    assert desk.told == {A: Share(1, RULE)}
    other.look()
    sleeper.look()
    assert desk.told == other_desk.told == {A: Share(50_000, RULE)}


def test_a_task_that_is_held_sends_the_lesser_of_both(ruled: Catalog, clock, desk: Desk) -> None:
    traffic, slow = _traffic(ruled, clock, desk), Share(9_000, "storage: it is slow")
    traffic.join(A, 1)
    traffic.hold(A, slow)
    assert desk.told == {A: slow}
    _edit(ruled, bandwidth_bytes_per_s=7000)
    traffic.look()
    assert desk.told == {A: Share(7000, RULE)}, "a limit of all is never exceeded for it"
    _edit(ruled, bandwidth_bytes_per_s=100_000)
    traffic.look()
    assert desk.told == {A: slow}
    traffic.hold(A, UNLIMITED)
    assert desk.told == {A: Share(100_000, RULE)}
    traffic.leave(A)
    traffic.hold(A, slow)


def test_what_feeds_a_copy_through_a_third_host_is_limited_as_its_second_half_is(
    ruled: Catalog, clock, desk: Desk
) -> None:
    traffic = _traffic(ruled, clock, desk)
    desk.target, desk.fed = "10.9.0.1", ("10.8.0.1", "10.1.0.7")
    traffic.join(A, 1, writes="main")
    assert desk.told == {A: Share(100_000, RULE)}
    desk.fed = ("10.8.0.1", "10.7.0.7")
    traffic.look()
    assert desk.told == {A: UNLIMITED}
