"""The ten steps of one session: when each began, how long something was under way in it, and what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.model.units import format_size
from holdfast_manager.catalog.values import EventEntry, TaskEntry
from holdfast_manager.steps import Step

from .names import Names
from .sentences import counted, sentence

Span = tuple[float, float]
ROUTINE = frozenset({"MoversStarted", "MoversConnected", "TaskStopped", "InventoryRead"})
"""Kinds that nobody who watches a session needs a line for."""
FAILURES = frozenset({"TaskFailed", "VmFailed", "TargetFailed", "SessionFailed"})
"""Kinds whose event holds an error."""
_BETWEEN_STEPS = frozenset({"RetryDue", "VmRetryDue", "CancelRequested"})
_UNMEASURED = frozenset({"MoversConnected", "ChangesMissed", "TransferFinished", "TaskFailed", "TaskStopped"})


_NAMED = 3  # so many are told by their names


class StepLine(msgspec.Struct, frozen=True, kw_only=True):
    """One step. ``began``: Unix time, None for a step that the session did not reach (or does not have).

    ``took_s``: the time in which at least one task or VM was in this step; steps of several tasks overlap, so these
    times may add up to more than the session's. ``bytes``: what it moved over the wire. ``details``: for people.
    """

    number: int
    step: Step
    began: float | None = None
    took_s: float = 0.0
    bytes: int | None = None
    details: tuple[str, ...] = ()


def step_lines(events: Sequence[EventEntry], tasks: Iterable[TaskEntry], names: Names) -> list[StepLine]:
    """All ten steps, in their order."""
    spans: dict[Step, list[Span]] = {step: [] for step in Step}
    details: dict[Step, list[tuple[str, str]]] = {step: [] for step in Step}
    last: dict[str, tuple[float, Step | None]] = {}
    counters = {(task.vm_id, task.disk_id): task.counters for task in tasks}
    for event in events:
        subject = names.subject(event)
        before, step_before = last.get(subject, (None, None))
        # a task that is stopped ends the step that it was in
        step = step_before if event.kind == "TaskStopped" else _step_of(event)
        last[subject] = (event.time, step)
        if step is None:
            continue
        spans[step].append(_span(event, before))
        details[step] += [(subject, text) for text in _texts(event, counters)]
        rules = event.data.get("rules")
        if event.kind == "MoversStarted" and rules:
            spans[Step.RULES].append((event.time, event.time))
            details[Step.RULES].append((subject, str(rules)))
    moved = sum(each.transferred_bytes for each in counters.values())
    return [
        StepLine(
            number=number,
            step=step,
            began=min((start for start, _ in spans[step]), default=None),
            took_s=covered(spans[step]),
            bytes=moved if step is Step.TRANSFER and spans[step] else None,
            details=tuple(_together(details[step])),
        )
        for number, step in enumerate(Step, start=1)
    ]


def covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of ``spans`` holds."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _span(event: EventEntry, previous: float | None) -> Span:
    """From when the event's step was under way: its own measure, but not before what the same subject did last.

    What movers report by themselves (that they are connected, that a transfer finished or failed) nobody measured: it
    began with the subject's last event.
    """
    took = event.data.get("took_s", event.data.get("waited_s"))
    if previous is not None and event.kind in _UNMEASURED:
        start = previous
    else:
        start = event.time - took if isinstance(took, (int, float)) else event.time
    return (start if previous is None else max(start, min(previous, event.time)), event.time)


def _step_of(event: EventEntry) -> Step | None:
    if event.kind in _BETWEEN_STEPS:
        return None
    try:
        return Step(event.data.get("at") or event.step or "")
    except ValueError:
        return None


def _texts(event: EventEntry, counters: Mapping[tuple[str, str], TransferCounters]) -> list[str]:
    if event.kind in FAILURES:
        return ["failed"]  # why stands among the problems, with what to do
    text = "" if event.kind == "TaskStopped" else event_text(event, counters)
    return [text] if text else []


def event_text(event: EventEntry, counters: Mapping[tuple[str, str], TransferCounters]) -> str:
    """The sentence about ``event``; that of a finished transfer tells what was moved (by VM id and disk id)."""
    task: Any = event.data.get("task")
    if event.kind == "TransferFinished" and isinstance(task, Mapping):
        moved = counters.get((str(task.get("vm")), str(task.get("disk"))))
        if moved is not None:
            turned, unused = str(event.data.get("reason") or ""), str(event.data.get("unused") or "")
            told = [moved_text(moved), f"{event.data.get('mode')}: {turned}" if turned else "", unused]
            return "; ".join(filter(None, told))
    return sentence(event)


def moved_text(counters: TransferCounters) -> str:
    """ "read 512 MiB, transferred 12.0 MiB (x 2.1), stored 11.9 MiB"; what was not done is left out."""
    ratio = counters.sent_bytes / counters.transferred_bytes if counters.transferred_bytes else 0.0
    moved = f"transferred {format_size(counters.transferred_bytes)}" + (f" (x {ratio:.1f})" if ratio else "")
    read = f"read {format_size(counters.read_bytes)}" if counters.read_bytes else ""
    stored = f"stored {format_size(counters.stored_bytes)}" if counters.stored_bytes else ""
    return ", ".join(filter(None, (read, moved, stored)))


def _together(details: list[tuple[str, str]]) -> list[str]:
    """One line per text; many subjects of which the same is told share one."""
    subjects: dict[str, list[str]] = {}
    for subject, text in details:
        subjects.setdefault(text, []).append(subject)
    return [_line(text, list(dict.fromkeys(who for who in named if who))) for text, named in subjects.items()]


def _line(text: str, who: list[str]) -> str:
    if not who:
        return text
    if len(who) > _NAMED:
        of_disks = all("/" in each for each in who)
        who = [counted(len(who), "disk")] if of_disks else [*who[:2], f"{len(who) - 2} more"]
    return f"{', '.join(who)}: {text}"
