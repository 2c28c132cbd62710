"""Handlers of pruning, undoing and protecting. The repository refuses what a retention forbids, whoever asks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast_agent.errors import HoldfastError, UsageError
from holdfast_agent.wire.messages import (
    PointList,
    PointRetention,
    PointsPruned,
    PointToPrune,
    PruneOutcome,
    RetainedPoint,
    RetainPoint,
    TombstonePoints,
    UndoTombstone,
)

from .agent import Agent
from .calls import Call
from .immutable_points import mark_immutable
from .repositories import opened, told_points

if TYPE_CHECKING:
    from holdfast_agent.repository.repository import Repository

MOST_POINTS = 1000
MOST_REASON_CHARS = 500
MOST_WINDOW_S = 366 * 86400.0
MOST_RETAINED_S = 100 * 366 * 86400.0
"""A time further away than a century is a slip of the pen, and it could never be taken back."""


def tombstone_points(agent: Agent, call: Call[TombstonePoints]) -> None:
    request = call.request
    if len(request.points) > MOST_POINTS:
        raise UsageError(reason=f"at most {MOST_POINTS} points are pruned by one request")
    if not 0 <= request.window_s <= MOST_WINDOW_S:
        raise UsageError(reason=f"a window for undoing is 0 to {MOST_WINDOW_S:g} seconds, not {request.window_s:g}")
    if any(len(point.reason) > MOST_REASON_CHARS for point in request.points):
        raise UsageError(reason=f"a reason has at most {MOST_REASON_CHARS} characters")

    def work() -> PointsPruned:
        with opened(agent.settings, request.repository) as repository:
            return PointsPruned(outcomes=tuple(_prune(repository, point, request.window_s) for point in request.points))

    agent.repository_work.run(work, call.settle)


def _prune(repository: Repository, point: PointToPrune, window_s: float) -> PruneOutcome:
    try:
        repository.tombstone(point.sid, window_s, point.reason)
        stone = repository.tombstones.of(point.sid)
    except HoldfastError as error:
        return PruneOutcome(sid=point.sid, error=error.to_record())
    return PruneOutcome(sid=point.sid, undo_until=stone.not_before if stone else 0.0)


def undo_tombstone(agent: Agent, call: Call[UndoTombstone]) -> None:
    request = call.request

    def work() -> PointList:
        with opened(agent.settings, request.repository) as repository:
            repository.undo_tombstone(request.sid)
            return told_points(repository, [repository.point(request.sid)], more=False)

    agent.repository_work.run(work, call.settle)


def retain_point(agent: Agent, call: Call[RetainPoint]) -> None:
    request = call.request

    def work() -> PointRetention:
        with opened(agent.settings, request.repository) as repository:
            check_until(repository, request.until)
            now = repository.retain(request.sid, request.until, request.hold)
        return PointRetention(retained=RetainedPoint(sid=request.sid, until=now.until, hold=now.hold))

    def retained(outcome: PointRetention | HoldfastError) -> None:
        if isinstance(outcome, PointRetention) and request.until:
            mark_immutable(agent, request.repository, request.sid)
        call.settle(outcome)

    agent.repository_work.run(work, retained)


def check_until(repository: Repository, until: float) -> None:
    """Raise :class:`UsageError` for a time that cannot be meant: it could never be taken back."""
    if not math.isfinite(until) or not 0 <= until <= repository.clock() + MOST_RETAINED_S:
        raise UsageError(reason=f"{until!r} is not a time until which a point can be kept (at most 100 years)")
