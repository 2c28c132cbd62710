"""The options that describe a job's schedule, shared by `job create` and `job edit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from holdfast_manager.schedules.schedule import Missed

F = TypeVar("F", bound=Callable[..., Any])
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
