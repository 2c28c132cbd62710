"""How far a running session is: a line for each task at work, with its rate and the time that is left."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from holdfast_agent.model.units import format_duration, format_rate, format_size
from holdfast_manager.catalog.values import TaskEntry

from .sentences import counted

_WINDOW_S = 10.0  # long enough to smooth a disk's hiccups, short enough to show that the line got slower
_CROWD = -1  # the number of no task
_AT_REST = frozenset({"finished", "stopped", "failed"})


class TaskProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One task at one moment. ``rate_bytes_per_s`` and ``left_s`` are None until they can be told."""

    task: int
    label: str
    state: str
    processed_bytes: int
    size_bytes: int
    rate_bytes_per_s: float | None
    left_s: float | None
    reason: str = ""

    @property
    def share(self) -> float:
        """0 … 1."""
        return min(1.0, self.processed_bytes / self.size_bytes) if self.size_bytes else 0.0

    @property
    def at_work(self) -> bool:
        return self.state not in _AT_REST

    def text(self) -> str:
        """ "web/root.img  34%  1.20 GiB of 4.00 GiB  312 MiB/s  8 s left"."""
        return f"{self.label}  {self.figures()}"

    def figures(self) -> str:
        """The text without the label. What does not move says what it waits for instead."""
        if self.rate_bytes_per_s is None:
            return f"{self.state}: {self.reason}" if self.reason and self.state == "queued" else self.state
        parts = [
            f"{self.share:.0%}",
            f"{format_size(self.processed_bytes)} of {format_size(self.size_bytes)}",
            format_rate(self.rate_bytes_per_s),
        ]
        if self.left_s is not None:
            parts.append(f"{_about(self.left_s)} left")
        return "  ".join(parts)


def gathered(progress: Sequence[TaskProgress]) -> list[TaskProgress]:
    """Those at work; several that wait for slots are one, in the words of the first of them."""
    at_work = [each for each in progress if each.at_work]
    queued = [each for each in at_work if each.state == "queued"]
    if len(queued) < 2:
        return at_work
    crowd = msgspec.structs.replace(queued[0], task=_CROWD, label=counted(len(queued), "disk"))
    return [each for each in at_work if each.state != "queued"] + [crowd]


def _about(seconds: float) -> str:
    """A guess, which parts of seconds would make look exact."""
    return format_duration(seconds) if seconds >= 99.5 else f"{max(1, round(seconds))} s"


class RateMeter:
    """Turns the counters of tasks, looked at again and again, into rates over the last ten seconds."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[float, int]]] = {}

    def look(self, tasks: Sequence[TaskEntry], now: float) -> list[TaskProgress]:
        """``now``: seconds of any clock that does not go backwards."""
        return [self._progress(task, now) for task in tasks]

    def _progress(self, task: TaskEntry, now: float) -> TaskProgress:
        done, size = task.counters.processed_bytes, task.counters.size_bytes
        rate = self._rate(task.id, done, now)
        left = max(0, size - done) / rate if rate and size else None
        return TaskProgress(
            task=task.id,
            label=f"{task.vm_name}/{task.disk_name}",
            state=task.state,
            processed_bytes=done,
            size_bytes=size,
            rate_bytes_per_s=rate,
            left_s=left,
            reason=task.reason,
        )

    def _rate(self, task: int, done: int, now: float) -> float | None:
        seen = self._seen.setdefault(task, deque())
        if seen and done < seen[-1][1]:
            seen.clear()  # the task began anew
        if not seen or done != seen[-1][1]:
            seen.append((now, done))
        while len(seen) > 2 and now - seen[1][0] >= _WINDOW_S:
            seen.popleft()
        first_time, first_done = seen[0]
        return (done - first_done) / (now - first_time) if now > first_time and done > first_done else None
