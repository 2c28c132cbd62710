"""The last act of a backup session that made points: the job's retention is applied. It never fails the backup."""

from __future__ import annotations

import time
from typing import TypeVar

from holdfast_agent.errors import HoldfastError, InternalError
from holdfast_agent.wire.messages import Reply, Request
from holdfast_manager.catalog.values import JobSpec
from holdfast_manager.retention.pruning import JudgedVm, Pruned, Scope, judge, prune

from .steps import Step
from .tasks import Context

R = TypeVar("R", bound=Reply)
_SHORT = 12


def apply_retention(context: Context, job: JobSpec) -> None:
    """Prune the points of ``job`` that its policy does not keep; the session's log tells what was done.

    Called after the last VM, in the session's own thread. Whatever goes wrong is a warning: the points that were made
    are whole, and the next session, or `holdfast prune`, does what was left.
    """
    if not job.retention.prunes:
        return
    try:
        _apply(context, job)
    except HoldfastError as error:
        _warn(context, error)
    except Exception as error:  # noqa: BLE001 - boundary: a defect here must not turn a good backup into a failed one
        _warn(context, InternalError(kind=type(error).__name__, where="retention", reason=str(error)))


def _apply(context: Context, job: JobSpec) -> None:
    def ask(request: Request, kind: type[R], /) -> R:
        return context.pool.ask(context.repository.agent, request, kind)

    name, now = context.repository.name, time.time()
    judged = judge(context.catalog, name, Scope(job=job.name), ask, now)
    pruned = prune(context.catalog, name, judged, ask, now)
    context.recorder.note(_told(judged, pruned), step=Step.COMMIT)
    for refusal in pruned.refused:
        context.recorder.note(f"retention: {refusal.error.message}", "warning", Step.COMMIT)


def _told(judged: tuple[JudgedVm, ...], pruned: Pruned) -> str:
    kept = sum(decision.keep for vm in judged for decision in vm.decisions)
    if not pruned.sids:
        return f"retention: {kept} restore point(s) of the job kept, none pruned"
    undo = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(pruned.undo_until or 0))
    names = ", ".join(sid[:_SHORT] for sid in pruned.sids[:5]) + (", …" if len(pruned.sids) > 5 else "")
    gone = f"{len(pruned.sids)} restore point(s) pruned ({names})"
    return f"retention: {gone}, {kept} kept; `holdfast point undo-prune` until {undo}"


def _warn(context: Context, error: HoldfastError) -> None:
    text = f"retention could not be applied, the next session tries again: {error}"
    context.recorder.note(text, "warning", Step.COMMIT)
