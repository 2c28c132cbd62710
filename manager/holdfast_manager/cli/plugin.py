"""`holdfast plugin …`."""

from __future__ import annotations

import click

from holdfast_manager.reports.table import table

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def plugin() -> None:
    """Plugins: hypervisors, guest processors, change trackers and notifiers."""


@plugin.command("list", examples=("holdfast plugin list",))
@pass_app
def list_(app: App) -> None:
    """All plugins: what each provides, and why one could not be loaded."""
    reports = app.host.report()
    rows: list[tuple[str, str, str, str]] = []
    for report in reports:
        first, *more = [f"{each.family.value} {each.name}: {each.summary}" for each in report.provides] or [
            report.error.message if report.error is not None else "-"
        ]
        rows.append((report.name, report.status.value, report.origin, first))
        rows += [("", "", "", line) for line in more]
    app.out.result({"plugins": reports}, lambda: table(("plugin", "state", "from", "provides"), rows))
