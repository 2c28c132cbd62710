"""`holdfast notifier …`."""

from __future__ import annotations

import time

import click

from holdfast_manager.catalog.rows import not_found
from holdfast_manager.reports.session_tables import notice_text
from holdfast_manager.reports.table import table

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def notifier() -> None:
    """Notifiers: who is told when a session has ended (notifiers.NAME in the configuration)."""


@notifier.command("list", examples=("holdfast notifier list",))
@pass_app
def list_(app: App) -> None:
    """The notifiers of the configuration, and notices that are not delivered yet."""
    notifiers = app.settings.notifiers
    waiting = app.catalog.notices.list(open_only=True)
    rows = [
        (
            name,
            each.plugin,
            ", ".join(each.results),
            ", ".join(each.kinds) or "all",
            ", ".join(each.jobs) or "all",
            str(sum(notice.notifier == name for notice in waiting)),
        )
        for name, each in notifiers.items()
    ]
    heads = ("notifier", "plugin", "results", "kinds", "jobs", "waiting")
    texts = [table(heads, rows, right=("waiting",)) if rows else "No notifiers"]
    if waiting:
        texts.append(table(("session", "not told"), [(str(each.session), notice_text(each)) for each in waiting]))
    told = {name: {"plugin": each.plugin, "results": each.results, "kinds": each.kinds, "jobs": each.jobs}
            for name, each in notifiers.items()}  # fmt: skip
    app.out.result({"notifiers": told, "waiting": waiting}, "\n\n".join(texts))


@notifier.command(examples=("holdfast notifier test mail", "holdfast notifier test mail --session 12"))
@click.argument("name")
@click.option("--session", type=click.IntRange(min=1), help="With the report of this session.  [default: the newest]")
@pass_app
def test(app: App, name: str, session: int | None) -> None:
    """Send a notice now, of a session that has ended, and tell what becomes of it."""
    from holdfast_manager.notifying.delivery import send
    from holdfast_manager.notifying.notice import notice_of, trial_report
    from holdfast_manager.reports.gathering import whole_report

    if name not in app.settings.notifiers:
        raise not_found("notifier", name, list(app.settings.notifiers))
    if session is None:
        newest = next((entry for entry in app.catalog.sessions.list(limit=50) if entry.ended is not None), None)
        session = newest.id if newest is not None else None
    report = whole_report(app.catalog, session) if session is not None else trial_report(time.time())
    send(app.settings.notifiers[name], app.host, name, notice_of(report, name, trial=True))
    app.out.result({"notifier": name, "session": session}, f"Notifier {name} has taken the notice")
