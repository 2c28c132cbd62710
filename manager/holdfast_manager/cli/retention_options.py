"""The options that describe a retention, shared by `job create`, `job edit` and `retention simulate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
import msgspec

from holdfast_manager.catalog.job_tables import retention_from_table
from holdfast_manager.retention.policy import RetentionPolicy

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--keep-days", type=int, help="Keep the points of so many days. Default: 7."),
    click.option("--keep-count", type=int, help="Keep so many of the newest points."),
    click.option("--keep-weekly", type=int, help="Keep the first point of so many weeks."),
    click.option("--keep-monthly", type=int, help="Keep the first point of so many months."),
    click.option("--keep-yearly", type=int, help="Keep the first point of so many years."),
    click.option("--keep-minimum", type=int, help="So many of the newest points stay in any case. Default: 3."),
    click.option("--retention-zone", metavar="ZONE", help="Where days begin, such as Europe/Berlin. Default: UTC."),
    click.option("--undo-window", metavar="TIME", help="How long a pruned point can be given back. Default: 3 days."),
    click.option("--immutable", metavar="TIME", help="For so long nobody can prune a new point. Default: 0 s."),
)
_KEYS = {
    "keep_days": "days", "keep_count": "count", "keep_weekly": "weekly", "keep_monthly": "monthly",
    "keep_yearly": "yearly", "keep_minimum": "minimum", "retention_zone": "time_zone", "undo_window": "undo_window",
    "immutable": "immutable",
}  # fmt: skip


def retention_options(function: F) -> F:
    """Decorator: the command takes them among its ``**given``, for :func:`retention_table`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def retention_table(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a retention, under the keys of a job's table."""
    return {key: given[name] for name, key in _KEYS.items() if given.get(name) is not None}


def without_retention(given: Mapping[str, Any]) -> dict[str, Any]:
    """All that was given but the options of a retention."""
    return {name: value for name, value in given.items() if name not in _KEYS}


def retention_from(current: RetentionPolicy, given: Mapping[str, Any]) -> RetentionPolicy:
    """``current`` with what was given. Raises ``ConfigInvalid``."""
    return retention_from_table(msgspec.to_builtins(current) | retention_table(given), "options")
