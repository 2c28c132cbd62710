"""One session as values: what `session show` prints and, as they stand, its JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.stats import TransferCounters, bottleneck, load_line, summed
from holdfast_manager.catalog.values import (
    EventEntry,
    NoticeEntry,
    SessionEntry,
    SessionKind,
    SessionResult,
    SessionState,
    TaskEntry,
)
from holdfast_manager.steps import Step

from .names import Names
from .problems import Problem, problems
from .purpose import what_for
from .steps import StepLine, step_lines

STORING = frozenset({SessionKind.BACKUP, SessionKind.COPY, SessionKind.HEAL})
"""Kinds of sessions that read disks and store what is new."""


class DiskLine(msgspec.Struct, frozen=True, kw_only=True):
    """One task. ``mode`` is None before the transfer began, and for verifications and restores that compare nothing.

    ``source`` and ``target``: addresses between which its data went, empty if nobody told them. ``streams``:
    connections of the data channel, 0 before it was open.
    """

    vm: str
    disk: str
    state: str
    mode: str | None
    reason: str
    attempt: int
    proxy: str
    repository: str
    queue_wait_s: float
    counters: TransferCounters
    error: ErrorRecord | None = None
    source: str = ""
    target: str = ""
    streams: int = 0


class PointLine(msgspec.Struct, frozen=True, kw_only=True):
    """A restore point that the session made."""

    sid: str
    vm: str
    consistency: str


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """``rate_bytes_per_s``: bytes read from the disks (a restore or verification: sent by the repository, unpacked) in
    the time in which something was transferred. ``load`` is empty before.

    ``what`` says in a few words what the session is for. ``process`` names who runs or ran it.
    """

    id: int
    kind: SessionKind
    job: str
    what: str
    state: SessionState
    result: SessionResult
    created: float
    started: float | None
    ended: float | None
    process: str
    stop_requested: bool
    steps: list[StepLine]
    disks: list[DiskLine]
    points: list[PointLine]
    total: TransferCounters
    rate_bytes_per_s: float
    load: str
    bottleneck: str
    problems: list[Problem]
    error: ErrorRecord | None
    notices: list[NoticeEntry]


def session_report(
    session: SessionEntry,
    tasks: Sequence[TaskEntry],
    events: Sequence[EventEntry],
    notices: Sequence[NoticeEntry] = (),
) -> SessionReport:
    """All that the catalogue knows of a session, running or ended. ``events``: its whole history, oldest first."""
    names = Names()
    for event in events:
        names.learn_event(event)
    names.learn_tasks(tasks)
    steps = step_lines(events, tasks, names)
    total = summed([task.counters for task in tasks])
    transfer = next(line for line in steps if line.step is Step.TRANSFER)
    # a transfer that still runs has no span yet, but its mover has told how long it has been at it
    measured_s = max([transfer.took_s, *(task.counters.elapsed_s for task in tasks)])
    busy = total.elapsed_s > 0
    covered_bytes = total.read_bytes if session.kind in STORING else total.sent_bytes
    return SessionReport(
        id=session.id,
        kind=session.kind,
        job=session.job,
        what=what_for(session),
        state=session.state,
        result=session.result,
        created=session.created,
        started=session.started,
        ended=session.ended,
        process=str(session.process),
        stop_requested=session.stop_requested,
        steps=steps,
        disks=_disks(tasks, events),
        points=_points(events, names),
        total=total,
        rate_bytes_per_s=covered_bytes / measured_s if measured_s > 0 else 0.0,
        load=load_line(total.stages, total.elapsed_s) if busy else "",
        bottleneck=bottleneck(total.stages) if busy else "",
        problems=problems(session, tasks, events, names),
        error=session.error,
        notices=list(notices),
    )


def _disks(tasks: Sequence[TaskEntry], events: Sequence[EventEntry]) -> list[DiskLine]:
    connected = {event.task: event.data for event in events if event.kind == "MoversConnected"}  # the last one counts
    return [_disk(task, connected.get(task.id, {})) for task in tasks]


def _disk(task: TaskEntry, connected: Mapping[str, Any]) -> DiskLine:
    return DiskLine(
        vm=task.vm_name,
        disk=task.disk_name,
        state=task.state,
        mode=task.mode.value if task.mode else None,
        reason=task.reason,
        attempt=task.attempt,
        proxy=task.proxy,
        repository=task.repository,
        queue_wait_s=task.queue_wait_s,
        counters=task.counters,
        error=task.error,
        source=str(connected.get("source", "")),
        target=str(connected.get("target", "")),
        streams=int(connected.get("streams", 0)),
    )


def _points(events: Sequence[EventEntry], names: Names) -> list[PointLine]:
    consistency: dict[str, str] = {}
    points = []
    for event in events:
        vm = str(event.data.get("vm", ""))
        if event.kind == "GuestQuiesced":
            consistency[vm] = str(event.data.get("consistency", "crash"))
        elif event.kind == "PointCommitted":
            points.append(
                PointLine(sid=str(event.data.get("sid")), vm=names.vm(vm), consistency=consistency.get(vm, "crash"))
            )
    return points
