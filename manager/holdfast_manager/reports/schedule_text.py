"""When the service starts a job, as people read it."""

from __future__ import annotations

import time

from holdfast_agent.model.units import format_duration
from holdfast_manager.catalog.values import JobSpec
from holdfast_manager.schedules.schedule import JobSchedule, Missed

from .times import moment

NEXT_SHOWN = 3


def next_starts(spec: JobSpec, now: float | None = None) -> list[float]:
    """The next moments at which the service starts a job by the clock, as far as its windows allow; a few."""
    if spec.schedule is None or not spec.enabled:
        return []
    found: list[float] = []
    at: float | None = time.time() if now is None else now
    for _ in range(1000):  # windows may admit none of them, ever
        at = spec.schedule.next_after(at) if at is not None else None
        if at is None or len(found) == NEXT_SHOWN:
            break
        if spec.schedule.allows(at):
            found.append(at)
    return found


def next_text(spec: JobSpec, starts: list[float]) -> str:
    """For a list: the next start, or why there is none."""
    if not spec.enabled:
        return "disabled"
    if spec.schedule is None:
        return "by hand"
    after = f"after {spec.schedule.after}" if spec.schedule.after else ""
    immediate = "for each new point" if spec.schedule.immediate else ""
    return moment(starts[0]) if starts else immediate or after or "never"


def schedule_facts(spec: JobSpec, starts: list[float]) -> list[tuple[str, str]]:
    """For `job show`."""
    schedule = spec.schedule
    if schedule is None:
        return [("Schedule", "none: it is run by hand")]
    when = [*schedule.start, *([f"after {schedule.after}"] if schedule.after else [])]
    when += ["for each new restore point"] if schedule.immediate else []
    shown = [
        ("Schedule", f"{'; '.join(when)} ({schedule.time_zone})"),
        ("Next", "\n".join(moment(start) for start in starts) or next_text(spec, starts)),
    ]
    return shown + _rest(schedule)


def _rest(schedule: JobSchedule) -> list[tuple[str, str]]:
    pause = format_duration(schedule.retry_pause_s)
    retries = f"{schedule.retries}, {pause} after the one before" if schedule.retries else "none"
    missed = "made up for once" if schedule.missed is Missed.RUN else "left out"
    windows = [("Windows", "; ".join(schedule.windows))] if schedule.windows else []
    return [*windows, ("Missed starts", missed), ("Failed sessions", f"run again: {retries}")]
