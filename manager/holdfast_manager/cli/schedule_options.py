"""The options that describe a job's schedule, shared by `job create` and `job edit`, and how it is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from holdfast_agent.model.units import format_duration
from holdfast_manager.catalog.values import JobSpec
from holdfast_manager.reports.times import moment
from holdfast_manager.schedules.schedule import JobSchedule, Missed

F = TypeVar("F", bound=Callable[..., Any])
NEXT_SHOWN = 3
_OPTIONS = (
    click.option(
        "--schedule", "schedule_start", multiple=True, metavar="WHEN",
        help="When the service runs it: 'daily 22:00', 'mon-fri 22:00', 'monthly last 03:00', 'every 4 h', "
        "'cron 0 22 * * 1-5', 'calendar Mon..Fri 22:00' (repeatable).",
    ),
    click.option("--after", "schedule_after", metavar="JOB", help="Run it when a session of that job has ended well."),
    click.option(
        "--immediate/--not-immediate", "schedule_immediate", default=None,
        help="Of a job that copies: run it for each new restore point of the repository that it copies from.",
    ),
    click.option(
        "--window", "schedule_window", multiple=True, metavar="TIMES",
        help="It starts only within these times, and stops when they end: 'sat,sun', '22:00-06:00' (repeatable).",
    ),
    click.option("--schedule-zone", metavar="ZONE", help="Whose clocks count, such as Europe/Berlin. Default: UTC."),
    click.option(
        "--missed", "schedule_missed", type=click.Choice([each.value for each in Missed]),
        help="What becomes of a start at which the service did not run. Default: run.",
    ),
    click.option("--session-retries", type=int, help="Of scheduled sessions that failed, 0 to 20. Default: 3."),
    click.option("--session-retry-pause", metavar="TIME", help='Before each of those, such as "10 min" (the default).'),
)  # fmt: skip
_KEYS = {
    "schedule_start": "start", "schedule_after": "after", "schedule_immediate": "immediate",
    "schedule_window": "windows", "schedule_zone": "time_zone",
    "schedule_missed": "missed", "session_retries": "retries", "session_retry_pause": "retry_pause",
}  # fmt: skip


def schedule_options(function: F) -> F:
    """Decorator: the command takes them among its ``**given``, for :func:`schedule_table`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def schedule_table(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a schedule, under the keys of a job's table."""
    told = {key: given[name] for name, key in _KEYS.items() if given.get(name) not in (None, ())}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}


def without_schedule(given: Mapping[str, Any]) -> dict[str, Any]:
    """All that was given but the options of a schedule."""
    return {name: value for name, value in given.items() if name not in _KEYS}


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
