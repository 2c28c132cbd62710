"""What a policy leaves of a row of backups, one a day: the same decisions as in earnest, day after day. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from itertools import groupby

import msgspec

from holdfast_agent.model.ids import Sid

from .policy import Decision, PointFacts, RetentionPolicy, decide

BACKUP_AT = time(22)
"""When the simulated backups run, in the policy's time zone: an hour that no change to summer time skips."""

_MARKS = (("year", "Y"), ("month", "M"), ("week", "W"), ("days", "D"), ("count", "C"), ("minimum", "m"))
_LEGEND = "Y, M, W: first of its year, month, week   D: days   C: count   m: minimum   . pruned   x failed"


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """After the last day. ``kept`` oldest first; ``pruned``, ``failed``: days. ``most``: points at any one time."""

    first: date
    last: date
    kept: tuple[Decision, ...]
    pruned: tuple[date, ...]
    failed: tuple[date, ...]
    most: int


def simulate(policy: RetentionPolicy, first: date, days: int, failed: Iterable[date] = ()) -> Simulation:
    """One backup on each of ``days`` days from ``first`` on, but for those that failed; pruned after each."""
    missed = frozenset(failed)
    points: list[PointFacts] = []
    decisions: tuple[Decision, ...] = ()
    pruned: list[date] = []
    most = 0
    row = [first + timedelta(days=number) for number in range(days)]
    for number, day in enumerate(row):
        if day in missed:
            continue
        now = datetime.combine(day, BACKUP_AT, policy.zone).timestamp()
        points.append(PointFacts(sid=Sid(f"{number:032x}"), created=now))
        most = max(most, len(points))
        decisions = decide(policy, points, now)
        gone = {decision.sid for decision in decisions if not decision.keep}
        pruned += [row[int(sid, 16)] for sid in gone]
        points = [point for point in points if point.sid not in gone]
    return Simulation(
        first=first,
        last=row[-1] if row else first,
        kept=tuple(decision for decision in decisions if decision.keep),
        pruned=tuple(sorted(pruned)),
        failed=tuple(day for day in row if day in missed),
        most=most,
    )


def calendar_text(simulation: Simulation, policy: RetentionPolicy) -> str:
    """A line for each month, a column for each day, and what keeps how many."""
    marks = dict.fromkeys(simulation.pruned, ".") | dict.fromkeys(simulation.failed, "x")
    counted: Counter[str] = Counter()
    for decision in simulation.kept:
        mark = mark_of(decision.reasons)
        counted[mark] += 1
        marks[datetime.fromtimestamp(decision.created, policy.zone).date()] = mark
    ruler = "".join(str(day // 10 or " ") if day % 10 == 0 or day == 1 else " " for day in range(1, 32))
    units = "".join(str(day % 10) for day in range(1, 32))
    lines = [f"         {ruler}".rstrip(), f"         {units}"]
    lines += [f"{month}  {''.join(row)}".rstrip() for month, row in _months(simulation, marks)]
    totals = ", ".join(f"{counted[mark]} {mark}" for _, mark in _MARKS if counted[mark])
    kept = f"Kept on {simulation.last}: {len(simulation.kept)} points ({totals}); at most {simulation.most} at a time"
    return "\n".join([*lines, "", _LEGEND, kept if simulation.kept else "Nothing was backed up"])


def mark_of(reasons: Sequence[str]) -> str:
    """One letter for a kept point: that of the rule which keeps it longest."""
    words = {reason.split()[0] for reason in reasons}
    return next((mark for word, mark in _MARKS if word in words), "m")


def _months(simulation: Simulation, marks: dict[date, str]) -> Iterator[tuple[str, list[str]]]:
    span = (simulation.last - simulation.first).days + 1
    days = (simulation.first + timedelta(days=number) for number in range(span))
    for month, group in groupby(days, key=lambda day: f"{day.year}-{day.month:02d}"):
        row = [" "] * 31
        for day in group:
            row[day.day - 1] = marks.get(day, " ")
        yield month, row
