"""Which restore points of a VM are kept. Pure: a policy, the points of one VM and job, and the time.

Three principles. Age counts from the newest good point, not from now: while backups fail, nothing grows older.
Suspect points never count for a rule, so that they cannot push good ones out. A point once kept for its week, month or
year stays kept for it until enough newer weeks, months or years have points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from holdfast_agent.model.ids import Sid
from holdfast_manager.schedules.windows import check_time_zone

_Number = Annotated[int, msgspec.Meta(ge=0, le=36500)]
_Duration = Annotated[float, msgspec.Meta(ge=0, le=36500 * 86400.0)]


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of each VM; a point is pruned when no rule keeps it. The defaults keep a week.

    ``days``: the points of so many days, the day of the newest good point being the first. ``count``: so many of the
    newest. ``weekly``, ``monthly``, ``yearly``: the first point of each of so many of the newest weeks (ISO 8601),
    months and years that have one. 0 switches a rule off; with all of them off nothing is ever pruned.
    ``minimum``: so many of the newest stay whatever the rules say (3: one may turn out to be bad, another be too late).
    ``time_zone``: in which days, weeks, months and years begin. ``undo_window_s``: how long a pruned point can be given
    back (3 days: what goes wrong on a Friday evening is mended on Monday). ``immutable_s``: for so long after it was
    made nobody can prune a point, not even who may do everything else here; it is never shortened later.
    """

    days: _Number = 7
    count: _Number = 0
    weekly: _Number = 0
    monthly: _Number = 0
    yearly: _Number = 0
    minimum: Annotated[int, msgspec.Meta(ge=1, le=36500)] = 3
    time_zone: str = "UTC"
    undo_window_s: Annotated[float, msgspec.Meta(ge=0, le=366 * 86400.0)] = msgspec.field(
        default=3 * 86400.0, name="undo_window"
    )
    immutable_s: _Duration = msgspec.field(default=0.0, name="immutable")

    def __post_init__(self) -> None:
        check_time_zone(self.time_zone)

    @property
    def prunes(self) -> bool:
        """Whether any rule is on; without one nothing is ever pruned."""
        return any((self.days, self.count, self.weekly, self.monthly, self.yearly))

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def shortened(old: RetentionPolicy, new: RetentionPolicy) -> tuple[str, ...]:
    """In the words of the options, what ``new`` keeps less of than ``old``; empty: nothing that is kept would go."""
    told = [
        f"{name} {before:g} -> {after:g}"
        for name, before, after in (
            ("undo_window", old.undo_window_s, new.undo_window_s),
            ("immutable", old.immutable_s, new.immutable_s),
            ("minimum", old.minimum, new.minimum),
        )
        if after < before
    ]
    if not new.prunes:
        return tuple(told)
    if not old.prunes:
        told.append("nothing is pruned -> something is")
    rules = (
        (name, getattr(old, name), getattr(new, name)) for name in ("days", "count", "weekly", "monthly", "yearly")
    )
    return (*told, *(f"{name} {before} -> {after}" for name, before, after in rules if after < before))


class PointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What retention needs to know of a point. Times are Unix seconds; ``booted``: it was proven to boot; ``held``:
    protected by somebody."""

    sid: Sid
    created: float
    suspect: bool = False
    verified: bool = False
    booted: bool = False
    held: bool = False
    retained_until: float = 0.0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """``reasons``: why a point is kept, in the words of the rules; or, with one entry, why it is pruned."""

    sid: Sid
    created: float
    keep: bool
    reasons: tuple[str, ...]


def decide(policy: RetentionPolicy, points: Iterable[PointFacts], now: float) -> tuple[Decision, ...]:
    """What becomes of each of the points of one VM (made by one job, in one repository), oldest first.

    Idempotent: what is left after pruning would be kept whole by the same policy at the same time.
    """
    ordered = sorted(points, key=lambda point: (point.created, point.sid))
    kept: dict[Sid, list[str]] = {point.sid: [] for point in ordered}
    good = [point for point in ordered if not point.suspect and point.created <= now]
    for point in ordered:
        kept[point.sid] += _standing_reasons(policy, point, good, now)
    for point in [point for point in good if point.verified][-1:]:
        kept[point.sid].append("last verified")
    for point in [point for point in good if point.booted][-1:]:
        kept[point.sid].append("last proven to boot")
    _keep_newest(kept, good, policy.minimum, "minimum")
    _keep_newest(kept, good, policy.count, "count")
    for reason, number, period in _periods(policy):
        _keep_first_of_each(kept, [(period(_day(point, policy.zone)), point) for point in good], number, reason)
    return tuple(
        Decision(
            sid=point.sid,
            created=point.created,
            keep=bool(kept[point.sid]),
            reasons=tuple(kept[point.sid]) or (_why_pruned(point),),
        )
        for point in ordered
    )


def _standing_reasons(
    policy: RetentionPolicy, point: PointFacts, good: Sequence[PointFacts], now: float
) -> Iterable[str]:
    """Reasons that look at the point alone, and at the newest good one."""
    if point.held:
        yield "protected"
    if point.retained_until > now:
        yield "immutable"
    if not policy.prunes:
        yield "no rule prunes"
    if not good:
        yield "no good point yet"
        return
    newest = good[-1]
    if (point.created, point.sid) > (newest.created, newest.sid):
        yield "newer than the newest good point"
    elif policy.days and _day(point, policy.zone) > _day(newest, policy.zone) - timedelta(days=policy.days):
        yield "days"


def _keep_newest(kept: dict[Sid, list[str]], good: Sequence[PointFacts], number: int, reason: str) -> None:
    for point in good[len(good) - min(number, len(good)) :]:
        kept[point.sid].append(reason)


def _keep_first_of_each(
    kept: dict[Sid, list[str]], dated: Iterable[tuple[str, PointFacts]], number: int, reason: str
) -> None:
    """Periods without a good point do not count: a pause of the job costs no older point."""
    first: dict[str, PointFacts] = {}
    for period, point in dated:
        first.setdefault(period, point)
    for period, point in list(first.items())[len(first) - min(number, len(first)) :]:
        kept[point.sid].append(f"{reason} {period}")


def _periods(policy: RetentionPolicy) -> tuple[tuple[str, int, Callable[[date], str]], ...]:
    return (
        ("week", policy.weekly, _week),
        ("month", policy.monthly, lambda day: f"{day.year}-{day.month:02d}"),
        ("year", policy.yearly, lambda day: str(day.year)),
    )


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"


def _day(point: PointFacts, zone: ZoneInfo) -> date:
    return datetime.fromtimestamp(point.created, zone).date()


def _why_pruned(point: PointFacts) -> str:
    return "suspect, and too old" if point.suspect else "no rule keeps it"
