"""`holdfast retention …`."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import click

from holdfast_agent.errors import UsageError
from holdfast_manager.retention.policy import RetentionPolicy

from .app import App, pass_app
from .commands import Group
from .retention_options import retention_from, retention_options

_MOST_DAYS = 36525


@click.group(cls=Group)
def retention() -> None:
    """Retention: what a policy keeps."""


@retention.command(
    examples=(
        "holdfast retention simulate --keep-days 7 --keep-weekly 4 --keep-monthly 12 --keep-yearly 3 --for 800",
        "holdfast retention simulate --job nightly",
        "holdfast retention simulate --keep-days 7 --failed 2026-03-01..2026-03-20 --start 2026-01-01 --for 90",
    )
)
@click.option("--job", help="The retention of this job; options given besides win.")
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), help="Day of the first backup. Default: today is the last.")
@click.option("--for", "days", type=click.IntRange(1, _MOST_DAYS), default=400, show_default=True, help="So many days.")
@click.option(
    "--failed", multiple=True, metavar="DAY[..DAY]", help="Days on which the backup fails (repeatable).",
)  # fmt: skip
@retention_options
@pass_app
def simulate(
    app: App, /, job: str | None, start: datetime | None, days: int, failed: tuple[str, ...], **given: Any
) -> None:
    """Show a calendar of what a policy keeps of daily backups, pruned after each as a session does."""
    from holdfast_manager.retention.simulation import calendar_text
    from holdfast_manager.retention.simulation import simulate as run

    current = app.catalog.jobs.get(job).retention if job is not None else RetentionPolicy()
    policy = retention_from(current, given)
    first = start.date() if start is not None else datetime.now(policy.zone).date() - timedelta(days=days - 1)
    simulation = run(policy, first, days, [day for text in failed for day in _days(text)])
    app.out.result({"policy": policy, "simulation": simulation}, lambda: calendar_text(simulation, policy))


def _days(text: str) -> list[date]:
    begin, _, end = text.partition("..")
    try:
        first, last = date.fromisoformat(begin), date.fromisoformat(end or begin)
    except ValueError:
        raise UsageError(reason=f"--failed takes 2026-03-01 or 2026-03-01..2026-03-20, not {text!r}") from None
    if not 0 <= (last - first).days <= _MOST_DAYS:
        raise UsageError(reason=f"--failed {text}: the last day is before the first, or a century later")
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
