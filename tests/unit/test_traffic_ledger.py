"""The ledger of traffic: at no moment may all tasks of a limit together send more, and the dead give theirs back."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.tables import transfers
from holdfast_manager.catalog.values import SessionKind, SessionResult, TrafficRule
from holdfast_manager.traffic.ledger import TrafficLedger
from holdfast_manager.traffic.rules import Transfer
from holdfast_manager.traffic.shares import UNLIMITED, Share

pytestmark = pytest.mark.both_databases

MIB = 1 << 20
WAN = Transfer(source="10.0.0.1", target="10.1.0.1", writes="main")


@pytest.fixture
def ledger(stocked: Catalog, clock) -> TrafficLedger:
    stocked.traffic_rules.add(TrafficRule(name="wan", target=("10.1.0.0/16",), bandwidth_bytes_per_s=100_000))
    return TrafficLedger(stocked, clock, ttl_s=60)


@pytest.fixture
def sessions(stocked: Catalog) -> tuple[int, int]:
    one, two = (stocked.sessions.begin(SessionKind.RESTORE, {}).id for _ in range(2))
    return one, two


def _by_rule(bytes_per_s: int) -> Share:
    return Share(bytes_per_s, "traffic rule wan")


def test_a_newcomer_waits_until_others_have_obeyed(ledger: TrafficLedger, sessions: tuple[int, int]) -> None:
    one, two = sessions
    ledger.begin(one, 1, WAN)
    assert ledger.raise_rates(one) == {1: _by_rule(100_000)}
    ledger.begin(two, 1, WAN)
    assert ledger.raise_rates(two) == {1: _by_rule(1)}, "the other one still has it all"
    assert ledger.shares(one) == {1: (Share(100_000), _by_rule(50_000))}
    ledger.lowered(one, {1: 50_000})
    assert ledger.raise_rates(two) == {1: _by_rule(50_000)}
    assert ledger.raise_rates(two) == {}, "nothing is told twice"
    ledger.end(two, 1)
    assert ledger.raise_rates(one) == {1: _by_rule(100_000)}


def test_a_dead_sessions_share_comes_back_when_its_lease_runs_out(
    ledger: TrafficLedger, stocked: Catalog, sessions: tuple[int, int], clock
) -> None:
    one, two = sessions
    for session in sessions:
        ledger.begin(session, 1, WAN)
        ledger.raise_rates(session)
    ledger.lowered(one, {1: 50_000})
    clock.pass_time(31)
    ledger.renew(two)
    assert ledger.raise_rates(two) == {1: _by_rule(50_000)}
    clock.pass_time(30)
    assert ledger.raise_rates(two) == {1: _by_rule(100_000)}
    assert ledger.shares(one) == {}
    with stocked.database.reading() as connection:
        left = list(connection.scalars(select(transfers.c.session)))
    assert left == [two], "nothing of the dead is kept"


def test_the_end_of_a_session_gives_its_share_back(
    ledger: TrafficLedger, stocked: Catalog, sessions: tuple[int, int]
) -> None:
    for session in sessions:
        ledger.begin(session, 1, WAN)
        ledger.raise_rates(session)
    stocked.sessions.end(sessions[0], SessionResult.SUCCESS, None)
    assert ledger.raise_rates(sessions[1]) == {1: _by_rule(100_000)}


def test_rules_limits_and_jobs_that_change_hold_at_the_next_look(
    ledger: TrafficLedger, stocked: Catalog, sessions: tuple[int, int]
) -> None:
    one, _ = sessions
    ledger.begin(one, 1, msgspec.structs.replace(WAN, job="web"))
    ledger.raise_rates(one)
    rule = stocked.traffic_rules.get("wan")
    stocked.traffic_rules.update(msgspec.structs.replace(rule, enabled=False))
    assert ledger.raise_rates(one) == {1: UNLIMITED}
    entry = stocked.repositories.get("main")
    stocked.repositories.update(msgspec.structs.replace(entry, write_limit_bytes_per_s=5000))
    assert ledger.shares(one)[1][1] == Share(5000, "write limit of main")
    stocked.repositories.update(msgspec.structs.replace(entry, read_limit_bytes_per_s=5000))
    assert ledger.shares(one)[1][1] == UNLIMITED, "it writes"
    stocked.jobs.update(msgspec.structs.replace(stocked.jobs.get("web"), bandwidth_bytes_per_s=2000))
    assert ledger.shares(one)[1][1] == Share(2000, "bandwidth of job web")


def test_a_task_that_takes_another_way_keeps_its_rate_until_it_obeys(
    ledger: TrafficLedger, sessions: tuple[int, int]
) -> None:
    one, _ = sessions
    ledger.begin(one, 1, Transfer(source="10.0.0.1", target="10.7.0.1"))
    assert ledger.raise_rates(one) == {1: UNLIMITED}
    ledger.begin(one, 1, WAN)
    assert ledger.shares(one) == {1: (UNLIMITED, _by_rule(100_000))}
    assert ledger.raise_rates(one) == {}


_STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "look", "end"]), st.integers(0, 1), st.integers(0, 3)), max_size=30
)


@given(_STEPS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_any_order_of_looks_the_limit_is_never_exceeded(
    ledger: TrafficLedger, stocked: Catalog, sessions: tuple[int, int], steps: list[tuple[str, int, int]]
) -> None:
    with stocked.database.writing() as connection:
        connection.execute(transfers.delete())
    told: dict[tuple[int, int], int] = {}  # what each mover may send at most: the truth of the matter
    for what, number, task in steps:
        session = sessions[number]
        if what == "begin" and (session, task) not in told:
            ledger.begin(session, task, WAN)
            told[session, task] = 0
        elif what == "end":
            told.pop((session, task), None)
            ledger.end(session, task)
        for mover, (has, share) in ledger.shares(session).items():
            if what == "look" and (has.bytes_per_s or 0) > (share.bytes_per_s or 0):
                told[session, mover] = share.bytes_per_s or 0
                ledger.lowered(session, {mover: told[session, mover]})
        for mover, share in ledger.raise_rates(session).items() if what == "look" else ():
            told[session, mover] = share.bytes_per_s or 0
        assert sum(told.values()) <= 100_000 + len(told)
    for _ in range(2):
        for session in sessions:
            for mover, (has, share) in ledger.shares(session).items():
                if (has.bytes_per_s or 0) > (share.bytes_per_s or 0):
                    ledger.lowered(session, {mover: share.bytes_per_s or 0})
            ledger.raise_rates(session)
    rates = [has.bytes_per_s or 0 for session in sessions for has, _ in ledger.shares(session).values()]
    assert len(rates) == len(told)
    assert not rates or sum(rates) > 99_900, "two looks of everybody are enough to share all of it"
