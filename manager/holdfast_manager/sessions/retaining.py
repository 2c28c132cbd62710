"""The last act of a backup session that made points: the job's retention is applied. It never fails the backup."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

from holdfast_agent.errors import HoldfastError, InternalError
from holdfast_agent.wire.messages import OpenRepository, Reply, RepositoryFacts, Request
from holdfast_manager.catalog.values import JobSpec, RepositoryEntry
from holdfast_manager.enrolment.points import Ask
from holdfast_manager.enrolment.pruning import JudgedVm, Pruned, Scope, judge, prune
from holdfast_manager.reports.sentences import counted
from holdfast_manager.steps import Step

from .tasks import Context

R = TypeVar("R", bound=Reply)
_SHORT = 12


def apply_retention(context: Context, job: JobSpec, target: str) -> None:
    """Prune the points of ``job`` in ``target`` that its policy does not keep; the session's log tells what was done.

    Called after the last VM, in the session's own thread. Whatever goes wrong is a warning: the points that were made
    are whole, and the next session, or `holdfast prune`, does what was left.
    """
    if not job.retention.prunes:
        return
    try:
        _apply(context, job, target)
    except HoldfastError as error:
        _warn(context, error)
    except Exception as error:  # noqa: BLE001 - boundary: a defect here must not turn a good backup into a failed one
        _warn(context, InternalError(kind=type(error).__name__, where="retention", reason=str(error)))


def _apply(context: Context, job: JobSpec, target: str) -> None:
    catalog, now = context.catalog, time.time()
    asks = {entry.name: _asker(context, entry) for entry in _there(context, catalog.groups.behind(target))}
    judged = judge(catalog, asks, Scope(job=job.name), now)
    for name, ask in asks.items():
        here = tuple(vm for vm in judged if vm.repository == name)
        pruned = prune(catalog, name, here, ask, now)
        context.recorder.note(_told(here, pruned, name if len(asks) > 1 else ""), step=Step.COMMIT)
        for refusal in pruned.refused:
            context.recorder.note(f"retention: {refusal.error.message}", "warning", Step.COMMIT)


def _asker(context: Context, entry: RepositoryEntry) -> Ask:
    def ask(request: Request, kind: type[R], /) -> R:
        return context.pool.ask(entry.agent, request, kind)

    return ask


def _there(context: Context, entries: tuple[RepositoryEntry, ...]) -> Iterator[RepositoryEntry]:
    """Those of several that answer: what others have makes these keep more, never less."""
    for entry in entries:
        try:
            context.pool.ask(entry.agent, OpenRepository(repository=entry.path), RepositoryFacts)
        except HoldfastError as error:
            if len(entries) == 1:
                raise
            context.recorder.note(
                f"retention: {entry.name} waits for the next session: {error}", "warning", Step.COMMIT
            )
        else:
            yield entry


def _told(judged: tuple[JudgedVm, ...], pruned: Pruned, member: str) -> str:
    kept = sum(decision.keep for vm in judged for decision in vm.decisions)
    place = f" in {member}" if member else ""
    if not pruned.sids:
        return f"retention: {counted(kept, 'restore point')} of the job kept{place}, none pruned"
    undo = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(pruned.undo_until or 0))
    names = ", ".join(sid[:_SHORT] for sid in pruned.sids[:5]) + (", …" if len(pruned.sids) > 5 else "")
    gone = f"{counted(len(pruned.sids), 'restore point')} pruned{place} ({names})"
    return f"retention: {gone}, {kept} kept; `holdfast point undo-prune` until {undo}"


def _warn(context: Context, error: HoldfastError) -> None:
    text = f"retention could not be applied, the next session tries again: {error}"
    context.recorder.note(text, "warning", Step.COMMIT)
