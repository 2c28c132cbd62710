"""Writes a session's story into the catalogue: every event with its time, and each task's present state."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import msgspec

from holdfast_agent.errors import ErrorRecord, HoldfastError
from holdfast_agent.model.stats import TransferCounters, summed
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import EventEntry, TaskEntry
from holdfast_manager.reports.sentences import sentence
from holdfast_manager.steps import Step

from .events import (
    Event,
    MoversConnected,
    MoversStarted,
    RetryDue,
    SlotGranted,
    TaskEvent,
    TaskFailed,
    TaskKey,
    TaskStopped,
    TransferBegan,
    TransferFinished,
    VmFailed,
)

log = logging.getLogger(__name__)

_STATE_AFTER: dict[type[Event], str] = {
    SlotGranted: "granted",
    MoversStarted: "starting",
    MoversConnected: "connected",
    TransferBegan: "transferring",
    TransferFinished: "finished",
    TaskStopped: "stopped",
    RetryDue: "queued",
}


class Recorder:
    """Thread-safe. Events are collected and written together by ``flush``, which the driver calls as it goes."""

    def __init__(self, catalog: Catalog, session: int) -> None:
        self.session = session
        self._catalog = catalog
        self._lock = threading.Lock()
        self._events: list[EventEntry] = []
        self._tasks: dict[TaskKey, TaskEntry] = {}
        self._dirty: set[TaskKey] = set()
        self.first_error: ErrorRecord | None = None

    def add_task(self, key: TaskKey, vm_name: str, disk_name: str, size_bytes: int) -> None:
        """A task exists from now on; called when its disk is first seen."""
        counters = TransferCounters(size_bytes=size_bytes)
        entry = TaskEntry(
            session=self.session,
            vm_id=key.vm,
            vm_name=vm_name,
            disk_id=key.disk,
            disk_name=disk_name,
            state="queued",
            counters=counters,
        )
        with self._lock:
            if key not in self._tasks:
                (self._tasks[key],) = self._catalog.tasks.add([entry])

    def task(self, key: TaskKey) -> TaskEntry:
        with self._lock:
            return self._tasks[key]

    def change_task(self, key: TaskKey, **fields: Any) -> None:
        """Replace fields of a task; written at the next flush."""
        with self._lock:
            if key in self._tasks:
                self._tasks[key] = msgspec.structs.replace(self._tasks[key], **fields)
                self._dirty.add(key)

    def progress(self, key: TaskKey, counters: TransferCounters) -> None:
        with self._lock:
            if key in self._tasks:
                kept = self._tasks[key].counters.size_bytes
                counters = msgspec.structs.replace(counters, size_bytes=counters.size_bytes or kept)
                self._tasks[key] = msgspec.structs.replace(self._tasks[key], counters=counters)
                self._dirty.add(key)

    def event(self, event: Event, took_s: float | None) -> None:
        """Keep an event; ``took_s``: how long the instruction took that it answers."""
        error: ErrorRecord | None = getattr(event, "error", None)
        if self.first_error is None:
            self.first_error = error
        data: dict[str, Any] = msgspec.to_builtins(event)
        data.pop("type", None)
        if took_s is not None:
            data["took_s"] = round(took_s, 6)
        step = event.at if isinstance(event, (TaskFailed, VmFailed)) else event.step
        number = None
        if isinstance(event, TaskEvent):
            self._apply(event)
            with self._lock:
                number = self._tasks[event.task].id if event.task in self._tasks else None
        self._append(type(event).__name__, step, data, number)

    def note(self, text: str, level: str = "info", step: Step | None = None) -> None:
        """A sentence for people. ``level``: info, warning or error."""
        self._append("Note", step, {"text": text, "level": level}, None)

    def ended(self, result: str, elapsed_s: float) -> None:
        """The last event of the session."""
        data = {"result": result, "elapsed_s": elapsed_s, "counters": msgspec.to_builtins(self.total())}
        self._append("SessionEnded", None, data, None)

    def total(self) -> TransferCounters:
        """The sum over all tasks; ``elapsed_s`` is the longest."""
        with self._lock:
            counters = [task.counters for task in self._tasks.values()]
        longest = max((each.elapsed_s for each in counters), default=0.0)
        return msgspec.structs.replace(summed(counters), elapsed_s=longest)

    def flush(self) -> None:
        """Write what was collected, in one transaction. Called by the driver as it goes.

        Raises what ``Catalog`` does; what was not written then is kept for the next time.
        """
        with self._lock:
            events, self._events = self._events, []
            dirty, self._dirty = self._dirty, set()
            tasks = [self._tasks[key] for key in dirty]
        try:
            self._catalog.events.append(events, tasks)
        except HoldfastError:
            with self._lock:
                self._events = events + self._events
                self._dirty |= dirty
            raise

    def _append(self, kind: str, step: Step | None, data: dict[str, Any], task: int | None) -> None:
        entry = EventEntry(
            session=self.session, task=task, time=time.time(), kind=kind, step=step.value if step else None, data=data
        )
        with self._lock:
            self._events.append(entry)
        self._log(entry)

    def _log(self, entry: EventEntry) -> None:
        level = logging.getLevelNamesMapping().get(str(entry.data.get("level", "info")).upper(), logging.INFO)
        text = sentence(entry)
        if text and log.isEnabledFor(level):
            task = next((each for each in self._tasks.values() if each.id == entry.task), None)
            place = {"vm": task.vm_name, "disk": task.disk_name} if task is not None else {}
            about = {"task": entry.task, "step": entry.step, "event": entry.kind, **place}
            log.log(level, "%s", text, extra={"session": entry.session, **about})

    def _apply(self, event: TaskEvent) -> None:
        changes: dict[str, Any] = {}
        if type(event) in _STATE_AFTER:
            changes["state"] = _STATE_AFTER[type(event)]
        match event:
            case SlotGranted():
                waited = self.task(event.task).queue_wait_s + event.waited_s
                changes |= {"proxy": event.proxy, "repository": event.repository, "queue_wait_s": waited}
            case TransferBegan():
                changes |= {"mode": event.mode, "reason": event.reason, "error": None}
            case TransferFinished():
                if event.reason:
                    changes |= {"mode": event.mode, "reason": event.reason}
                if event.unused:
                    changes["reason"] = f"{event.reason or self.task(event.task).reason}; {event.unused}"
            case TaskFailed():
                changes |= {"state": "failed", "error": event.error}
            case RetryDue():
                changes["attempt"] = self.task(event.task).attempt + 1
        self.change_task(event.task, **changes)
