"""The pure core of retention: properties that hold for any points, and calendars that are known."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast_agent.errors import ConfigInvalid
from holdfast_agent.model import strict
from holdfast_agent.model.ids import Sid
from holdfast_manager.retention.policy import Decision, PointFacts, RetentionPolicy, decide
from holdfast_manager.retention.simulation import calendar_text, simulate

DAY_S = 86400.0
START = datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")).timestamp()

policies = st.builds(
    RetentionPolicy,
    days=st.integers(0, 20),
    count=st.integers(0, 8),
    weekly=st.integers(0, 6),
    monthly=st.integers(0, 6),
    yearly=st.integers(0, 3),
    minimum=st.integers(1, 6),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Kiritimati", "America/St_Johns"]),
)


@st.composite
def histories(draw: st.DrawFn, most: int = 40) -> list[PointFacts]:
    """Points of up to three years, in any order, some at the same instant, some suspect, verified, held."""
    hours = draw(st.lists(st.integers(0, 3 * 365 * 24), max_size=most))
    return [
        PointFacts(
            sid=Sid(f"{number:032x}"),
            created=START + hour * 3600.0,
            suspect=draw(st.integers(0, 5)) == 0,
            verified=draw(st.integers(0, 5)) == 0,
            booted=draw(st.integers(0, 5)) == 0,
            held=draw(st.integers(0, 15)) == 0,
        )
        for number, hour in enumerate(hours)
    ]


def now_after(points: list[PointFacts]) -> float:
    return max((point.created for point in points), default=START) + 3600.0


def kept(decisions: tuple[Decision, ...]) -> set[Sid]:
    return {decision.sid for decision in decisions if decision.keep}


def left(points: list[PointFacts], decisions: tuple[Decision, ...]) -> list[PointFacts]:
    stay = kept(decisions)
    return [point for point in points if point.sid in stay]


@given(policies, histories())
def test_every_point_gets_one_decision_with_a_reason(policy: RetentionPolicy, points: list[PointFacts]) -> None:
    decisions = decide(policy, points, now_after(points))
    assert sorted(decision.sid for decision in decisions) == sorted(point.sid for point in points)
    assert all(decision.reasons for decision in decisions)
    assert [decision.created for decision in decisions] == sorted(decision.created for decision in decisions)


@given(policies, histories())
def test_never_below_the_minimum_of_good_points(policy: RetentionPolicy, points: list[PointFacts]) -> None:
    good = [point for point in points if not point.suspect]
    stay = left(good, decide(policy, points, now_after(points)))
    assert len(stay) >= min(policy.minimum, len(good))
    newest = sorted(good, key=lambda point: (point.created, point.sid))[-policy.minimum :]
    assert {point.sid for point in newest} <= {point.sid for point in stay}


@given(policies, histories())
def test_the_last_good_points_that_were_verified_and_that_booted_and_protected_ones_stay(
    policy: RetentionPolicy, points: list[PointFacts]
) -> None:
    stay = kept(decide(policy, points, now_after(points)))
    good = [point for point in points if not point.suspect]
    for proven in ([point for point in good if point.verified], [point for point in good if point.booted]):
        if proven:
            assert max(proven, key=lambda point: (point.created, point.sid)).sid in stay
    assert {point.sid for point in points if point.held} <= stay


@given(policies, histories(), st.integers(0, 10**8))
def test_what_is_immutable_stays(policy: RetentionPolicy, points: list[PointFacts], ahead: int) -> None:
    now = now_after(points)
    retained = [msgspec.structs.replace(point, retained_until=now + ahead) for point in points]
    if ahead > 0:
        assert kept(decide(policy, retained, now)) == {point.sid for point in points}
    else:
        assert kept(decide(policy, retained, now)) == kept(decide(policy, points, now))


@given(policies, histories())
def test_pruning_twice_prunes_once(policy: RetentionPolicy, points: list[PointFacts]) -> None:
    now = now_after(points)
    stay = left(points, decide(policy, points, now))
    assert kept(decide(policy, stay, now)) == {point.sid for point in stay}


@given(policies, histories(), st.floats(0, 3 * 365 * DAY_S))
def test_time_alone_prunes_nothing(policy: RetentionPolicy, points: list[PointFacts], passed_s: float) -> None:
    """While backups fail no point is made: however long that lasts, the good points stay."""
    now = now_after(points)
    assert kept(decide(policy, points, now + passed_s)) == kept(decide(policy, points, now))


@given(policies, histories())
def test_suspect_points_push_no_good_one_out(policy: RetentionPolicy, points: list[PointFacts]) -> None:
    now = now_after(points)
    good = [point for point in points if not point.suspect]
    assert kept(decide(policy, good, now)) == kept(decide(policy, points, now)) & {point.sid for point in good}


@given(policies, histories(), st.data())
def test_a_newer_point_takes_the_place_of_at_most_one_old_one_for_each_rule(
    policy: RetentionPolicy, points: list[PointFacts], data: st.DataObject
) -> None:
    """A kept weekly, monthly or yearly point only goes when a newer period of its kind has come."""
    now = now_after(points)
    before = decide(policy, points, now)
    later = now + data.draw(st.floats(0, 400 * DAY_S), "later")
    newer = PointFacts(sid=Sid("f" * 32), created=later)
    after = {decision.sid: decision for decision in decide(policy, [*points, newer], later)}
    for rule, number in (("week", policy.weekly), ("month", policy.monthly), ("year", policy.yearly)):
        had = [decision for decision in before if any(reason.startswith(rule) for reason in decision.reasons)]
        lost = [each for each in had if not any(reason.startswith(rule) for reason in after[each.sid].reasons)]
        begun = any(reason.startswith(rule) for reason in after[newer.sid].reasons)
        assert lost == (had[:1] if begun and len(had) == number else []), rule


@given(policies, histories(most=12))
def test_points_from_the_future_neither_age_the_others_nor_go(
    policy: RetentionPolicy, points: list[PointFacts]
) -> None:
    """A manager whose clock was wrong for a night must not cost a year of points."""
    now = now_after(points)
    odd = PointFacts(sid=Sid("f" * 32), created=now + 30 * 365 * DAY_S)
    assert kept(decide(policy, [*points, odd], now)) == kept(decide(policy, points, now)) | {odd.sid}


@given(histories())
def test_without_a_rule_nothing_goes(points: list[PointFacts]) -> None:
    policy = RetentionPolicy(days=0)
    assert not policy.prunes
    assert kept(decide(policy, points, now_after(points))) == {point.sid for point in points}


@given(policies, histories())
def test_without_a_good_point_nothing_goes(policy: RetentionPolicy, points: list[PointFacts]) -> None:
    bad = [msgspec.structs.replace(point, suspect=True) for point in points]
    assert kept(decide(policy, bad, now_after(bad))) == {point.sid for point in bad}


@given(policies, histories())
def test_more_of_a_rule_never_keeps_less(policy: RetentionPolicy, points: list[PointFacts]) -> None:
    assume(policy.prunes)
    now = now_after(points)
    for name in ("days", "count", "weekly", "monthly", "yearly", "minimum"):
        more = msgspec.structs.replace(policy, **{name: getattr(policy, name) + 1})
        assert kept(decide(policy, points, now)) <= kept(decide(more, points, now)), name


def daily(first: date, days: int) -> list[PointFacts]:
    start = datetime(first.year, first.month, first.day, 22, tzinfo=ZoneInfo("UTC"))
    return [
        PointFacts(sid=Sid(f"{number:032x}"), created=(start + timedelta(days=number)).timestamp())
        for number in range(days)
    ]


def days_kept(policy: RetentionPolicy, points: list[PointFacts]) -> list[str]:
    decisions = decide(policy, points, now_after(points))
    return [
        datetime.fromtimestamp(decision.created, policy.zone).strftime("%m-%d")
        for decision in decisions
        if decision.keep
    ]


def test_seven_days_are_seven_daily_points() -> None:
    points = daily(date(2026, 3, 1), 20)
    assert days_kept(RetentionPolicy(), points) == [f"03-{day:02d}" for day in range(14, 21)]


def test_seven_days_after_a_pause_are_the_minimum_at_least() -> None:
    points = [*daily(date(2026, 3, 1), 10), *daily(date(2026, 5, 1), 1)]
    points = [msgspec.structs.replace(point, sid=Sid(f"{n:032x}")) for n, point in enumerate(points)]
    assert days_kept(RetentionPolicy(), points) == ["03-09", "03-10", "05-01"]


def test_months_are_those_of_the_stated_zone() -> None:
    """22:30 in UTC on 31 March is 1 April in Berlin (summer time)."""
    made = [datetime(2026, 3, 15, tzinfo=ZoneInfo("UTC")), datetime(2026, 3, 31, 22, 30, tzinfo=ZoneInfo("UTC"))]
    points = [PointFacts(sid=Sid(f"{n:032x}"), created=each.timestamp()) for n, each in enumerate(made)]

    def reasons(zone: str) -> list[tuple[str, ...]]:
        policy = RetentionPolicy(days=0, monthly=5, minimum=1, time_zone=zone)
        return [tuple(r for r in each.reasons if "month" in r) for each in decide(policy, points, now_after(points))]

    assert reasons("UTC") == [("month 2026-03",), ()]
    assert reasons("Europe/Berlin") == [("month 2026-03",), ("month 2026-04",)]


def test_weeks_are_those_of_iso_8601() -> None:
    points = daily(date(2026, 12, 26), 12)  # week 53 of 2026 ends on 3 January 2027
    policy = RetentionPolicy(days=0, weekly=10, minimum=1)
    told = [reason for each in decide(policy, points, now_after(points)) for reason in each.reasons if "week" in reason]
    assert told == ["week 2026-W52", "week 2026-W53", "week 2027-W01"]


GOLDEN = """\
                  1         2         3
         1234567890123456789012345678901
2026-01  Y..............................
2026-02  M...........................
2026-03  M..............W......W....xxWD
2026-04  MDD

Y, M, W: first of its year, month, week   D: days   C: count   m: minimum   . pruned   x failed
Kept on 2026-04-03: 10 points (1 Y, 3 M, 3 W, 3 D); at most 12 at a time"""


def test_the_calendar_of_a_policy() -> None:
    policy = RetentionPolicy(days=5, weekly=3, monthly=3, yearly=1)
    failed = [date(2026, 3, 28), date(2026, 3, 29)]
    simulation = simulate(policy, date(2026, 1, 1), 93, failed)
    assert calendar_text(simulation, policy) == GOLDEN
    assert simulation.failed == tuple(failed)
    assert len(simulation.kept) + len(simulation.pruned) + len(failed) == 93


def test_a_simulation_in_which_all_backups_fail() -> None:
    policy = RetentionPolicy()
    simulation = simulate(policy, date(2026, 1, 30), 3, [date(2026, 1, 30) + timedelta(days=n) for n in range(3)])
    assert simulation.kept == ()
    assert calendar_text(simulation, policy).endswith("Nothing was backed up")
    assert "2026-01  " + 29 * " " + "xx" in calendar_text(simulation, policy)


@given(policies, st.integers(1, 120), st.sets(st.integers(0, 119)))
def test_a_simulation_keeps_what_one_decision_over_all_points_keeps_of_the_newest(
    policy: RetentionPolicy, days: int, failed: set[int]
) -> None:
    """Pruning day by day never loses what the rules would keep if nothing had been pruned in between."""
    first = date(2026, 1, 1)
    simulation = simulate(policy, first, days, [first + timedelta(days=n) for n in failed])
    made = [n for n in range(days) if n not in failed]
    created = {
        n: datetime.combine(first + timedelta(days=n), datetime.min.time().replace(hour=22), policy.zone).timestamp()
        for n in made
    }
    points = [PointFacts(sid=Sid(f"{n:032x}"), created=created[n]) for n in made]
    assert {each.sid for each in simulation.kept} == kept(decide(policy, points, now_after(points)))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"minimum": 0}, "minimum"),
        ({"days": -1}, "days"),
        ({"time_zone": "Mars/Olympus"}, "Europe/Berlin"),
        ({"time_zone": "../../etc/passwd"}, "Europe/Berlin"),
        ({"time_zone": "Europe"}, "Europe/Berlin"),
        ({"weekly": 1.5}, "weekly"),
    ],
)
def test_a_bad_policy_is_told(table: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigInvalid, match=reason):
        strict.convert(table, RetentionPolicy, "a test")
