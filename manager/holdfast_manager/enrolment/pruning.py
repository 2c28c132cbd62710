"""Pruning: the policy decides over what the repository really has, and the repository's agent has the last word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from holdfast_agent.errors import ErrorRecord, PointNotFound
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Origin
from holdfast_agent.wire.messages import PointsPruned, PointToPrune, PruneOutcome, TombstonePoints
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import JobSpec, PointEntryRow, PointState
from holdfast_manager.retention.policy import Decision, PointFacts, RetentionPolicy, decide

from .points import Ask, stored_points

_AT_ONCE = 1000  # points in one request, as the agent allows
_REMEMBERED_S = 30 * 86400.0
"""A pruned point is listed for so long after its window: while no collector has run it can still be given back."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Which points are judged; None means any."""

    job: str | None = None
    vm_name: str | None = None


class JudgedVm(msgspec.Struct, frozen=True, kw_only=True):
    """The points of one VM that one job made in one repository, and what becomes of each, oldest first.

    ``policy`` None: there is no such job any more; without a policy nothing is pruned.
    """

    repository: str
    server: str
    vm_id: str
    vm_name: str
    job: str
    policy: RetentionPolicy | None
    decisions: tuple[Decision, ...]

    @property
    def doomed(self) -> tuple[Decision, ...]:
        return tuple(decision for decision in self.decisions if not decision.keep)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A point that the repository's agent would not prune."""

    sid: Sid
    error: ErrorRecord


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. ``undo_until``: Unix time until which all of ``sids`` can be given back."""

    sids: tuple[Sid, ...] = ()
    undo_until: float | None = None
    refused: tuple[Refusal, ...] = ()


def judge(catalog: Catalog, asks: Mapping[str, Ask], scope: Scope, now: float) -> tuple[JudgedVm, ...]:
    """Decide over every point in scope that the repositories of ``asks`` have, taken together. Changes nothing.

    They are one, or the members of a group. A member that is missing, because it is away, makes others keep more, never
    less. The lists are the repositories' own, authenticated: a point that only the catalogue believes in keeps no other
    from being the last one.
    """
    jobs = {spec.name: spec for spec in catalog.jobs.list()}
    ids = {entry.name: entry.repository_id for entry in catalog.repositories.list()}
    groups: dict[tuple[str, str, str], list[PointEntryRow]] = defaultdict(list)
    for repository, ask in asks.items():
        for row in stored_points(catalog, repository, ask).rows:
            groups[row.server, row.vm_id, row.job].append(row)
    judged = (each for _, rows in sorted(groups.items()) for each in _judge(rows, ids, jobs, now))
    return tuple(each for each in judged if scope.job in (None, each.job) and scope.vm_name in (None, each.vm_name))


def _judge(
    rows: Sequence[PointEntryRow], ids: Mapping[str, str], jobs: Mapping[str, JobSpec], now: float
) -> Iterator[JudgedVm]:
    """What becomes of the points of one VM, for each repository that has some. Copies of one point count as one."""
    newest = max(rows, key=lambda row: row.created)
    policy = jobs[newest.job].retention if newest.job in jobs else None
    same: dict[Origin, list[PointEntryRow]] = defaultdict(list)
    for row in rows:
        same[row.origin or Origin(ids[row.repository], row.sid)].append(row)
    decided = decide(policy or RetentionPolicy(days=0), [_facts_of_equals(each) for each in same.values()], now)
    by_first = {each[0].sid: each for each in same.values()}
    decisions: dict[str, list[Decision]] = defaultdict(list)
    for decision in decided:
        for row in by_first[decision.sid]:
            decisions[row.repository].append(msgspec.structs.replace(decision, sid=row.sid))
    for repository, found in sorted(decisions.items()):
        yield JudgedVm(
            repository=repository,
            server=newest.server,
            vm_id=newest.vm_id,
            vm_name=newest.vm_name,
            job=newest.job,
            policy=policy,
            decisions=tuple(found),
        )


def _facts_of_equals(rows: Sequence[PointEntryRow]) -> PointFacts:
    facts = [facts_of(row) for row in rows]
    return msgspec.structs.replace(
        facts[0],
        suspect=all(each.suspect for each in facts),
        verified=any(each.verified for each in facts),
        booted=any(each.booted for each in facts),
        held=any(each.held for each in facts),
        retained_until=max(each.retained_until for each in facts),
    )


def facts_of(row: PointEntryRow) -> PointFacts:
    """What retention needs to know of a point in the catalogue."""
    return PointFacts(
        sid=row.sid,
        created=row.created,
        suspect=row.state is PointState.SUSPECT,
        verified=row.verified is not None,
        booted=row.booted is not None,
        held=row.held,
        retained_until=row.retained_until,
    )


def prune(catalog: Catalog, repository: str, judged: Iterable[JudgedVm], ask: Ask, now: float) -> Pruned:
    """Have ``repository`` hide the points of ``judged`` that no rule keeps.

    The catalogue follows what the repository did. Points that it refuses to prune stay, and are told.
    """
    path = catalog.repositories.get(repository).path
    outcomes: list[PruneOutcome] = []
    for each in judged:
        if each.policy is None or not each.doomed:
            continue
        wanted = [PointToPrune(sid=decision.sid, reason=", ".join(decision.reasons)) for decision in each.doomed]
        for start in range(0, len(wanted), _AT_ONCE):
            points = tuple(wanted[start : start + _AT_ONCE])
            request = TombstonePoints(repository=path, points=points, window_s=each.policy.undo_window_s)
            outcomes += ask(request, PointsPruned).outcomes
            _follow(catalog, outcomes[-len(points) :])
    catalog.points.forget_pruned(repository, now - _REMEMBERED_S)
    pruned = [outcome for outcome in outcomes if outcome.error is None]
    refused = [Refusal(sid=each.sid, error=each.error) for each in outcomes if each.error is not None]
    return Pruned(
        sids=tuple(outcome.sid for outcome in pruned),
        undo_until=min((outcome.undo_until for outcome in pruned), default=None),
        refused=tuple(refused),
    )


def _follow(catalog: Catalog, outcomes: Iterable[PruneOutcome]) -> None:
    for outcome in outcomes:
        if outcome.error is None:
            catalog.points.set_pruned(outcome.sid, outcome.undo_until)
        elif outcome.error.code == PointNotFound.code:
            catalog.points.remove(outcome.sid)
