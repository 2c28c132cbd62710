"""`holdfast session …`."""

from __future__ import annotations

import time

import click
from msgspec import structs

from holdfast_agent.errors import NotFound
from holdfast_agent.model.units import format_duration, parse_duration
from holdfast_manager.catalog.history import Forgotten
from holdfast_manager.catalog.values import SessionEntry, SessionKind, SessionState
from holdfast_manager.reports.gathering import whole_report
from holdfast_manager.reports.purpose import what_for
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.session_text import session_text
from holdfast_manager.reports.table import table
from holdfast_manager.reports.times import moment

from .app import App, OutputForm, pass_app
from .commands import Group
from .displays import JsonLines, display_for
from .following import follow as follow_session
from .following import interrupts
from .running import EXIT_CANCELLED, exit_code, strict_option, tell

_number = click.argument("number", type=click.IntRange(min=1))
_number_or_newest = click.argument("number", type=click.IntRange(min=1), required=False)


@click.group(cls=Group)
def session() -> None:
    """Sessions: what ran, what runs, and how it went."""


@session.command(
    "list", examples=("holdfast session list", "holdfast session list --job nightly --limit 5 --output json")
)
@click.option("--job", help="Of this job only.")
@click.option("--kind", type=click.Choice([kind.value for kind in SessionKind]), help="Of this kind only.")
@click.option("--limit", type=click.IntRange(1, 10000), default=20, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(min=1), help="Older than this session: the next page.")
@pass_app
def list_(app: App, job: str | None, kind: str | None, limit: int, before: int | None) -> None:
    """Sessions, newest first."""
    app.catalog.sessions.reap_dead()
    entries = app.catalog.sessions.list(job, SessionKind(kind) if kind else None, before, limit)
    app.out.result({"sessions": entries}, lambda: _table(entries))


@session.command(examples=("holdfast session show", "holdfast session show 12", "holdfast session show --output json"))
@_number_or_newest
@pass_app
def show(app: App, number: int | None) -> None:
    """One session (the newest without NUMBER): the ten steps, each disk, the load line, warnings and errors."""
    app.catalog.sessions.reap_dead()
    report = whole_report(app.catalog, number or _newest(app))
    app.out.result(report, lambda: session_text(report))


@session.command(
    examples=("holdfast session follow", "holdfast session follow 12", "holdfast session follow 12 --output json")
)
@_number_or_newest
@strict_option
@pass_app
def follow(app: App, number: int | None, strict: bool) -> int:
    """Follow a session (the newest without NUMBER) to its end; exits as it would have. Ctrl-C only stops following.

    With --output json every event comes as a line of JSON, at last one with the report.
    """
    number = number or _newest(app)
    lines = JsonLines(click.echo) if app.output is OutputForm.JSON else None
    display = lines or display_for(app)
    with interrupts() as interrupt:
        ended = follow_session(app.catalog, number, display, interrupt, lambda count: False)
    if not ended:
        app.out.note(f"Session {number} goes on; `holdfast session stop {number}` would stop it")
        return EXIT_CANCELLED
    if lines is None:
        return tell(app, number, strict)
    report = whole_report(app.catalog, number)
    lines.line({"report": report})
    return exit_code(report, strict)


def _newest(app: App) -> int:
    """The number of the session that began last. Raises :class:`NotFound` when there never was one."""
    for entry in app.catalog.sessions.list(limit=1):
        return entry.id
    raise NotFound(kind="session", name="newest", advice="No session ever ran; `holdfast job run NAME` starts one")


@session.command(examples=("holdfast session stop 12",))
@_number
@pass_app
def stop(app: App, number: int) -> None:
    """Ask a session to stop. What is under way is cleaned up; committed points stay."""
    app.catalog.sessions.reap_dead()
    app.catalog.sessions.request_stop(number)
    entry = app.catalog.sessions.get(number)
    if entry.state is SessionState.ENDED:
        app.out.result({"session": number, "ended": True}, f"Session {number} has ended already: {entry.result.value}")
    else:
        app.out.result({"session": number, "ended": False}, f"Asked session {number} to stop")


@session.command(examples=("holdfast session prune --dry-run", "holdfast session prune --older-than 90d"))
@click.option("--older-than", metavar="AGE", help="Sessions that ended so long ago, in the place of history.keep.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many stay, in the place of history.sessions.")
@click.option("--events-older-than", metavar="AGE", help="In the place of history.events.")
@click.option("--dry-run", is_flag=True, help="Tell what would be forgotten; change nothing.")
@pass_app
def prune(app: App, older_than: str | None, limit: int | None, events_older_than: str | None, dry_run: bool) -> None:
    """Forget old sessions, as the table history of the configuration says; the service does so each hour.

    Restore points stay. So do sessions that run or have left something behind, and the newest one of each job.
    """
    from holdfast_manager.service.housekeeping import remove_logs

    limits = app.settings.history
    if older_than is not None:
        limits = structs.replace(limits, keep_s=parse_duration(older_than))
    if events_older_than is not None:
        limits = structs.replace(limits, events_s=parse_duration(events_older_than))
    if limit is not None:
        limits = structs.replace(limits, sessions=limit)
    history = app.catalog.history
    gone = history.due(limits) if dry_run else sum(history.prune(limits), start=Forgotten())
    if not dry_run:
        remove_logs(app.settings, app.catalog, time.time())
    said = f"{counted(gone.sessions, 'session')} and {counted(gone.events, 'event')}"
    document = {"dry_run": dry_run, "sessions": gone.sessions, "events": gone.events}
    app.out.result(document, f"{'Would forget' if dry_run else 'Forgot'} {said}")


def _table(entries: tuple[SessionEntry, ...]) -> str:
    if not entries:
        return "No sessions yet; `holdfast job run NAME` starts one"
    rows = [
        (
            str(entry.id),
            what_for(entry),
            entry.result.value if entry.state is SessionState.ENDED else entry.state.value,
            moment(entry.started or entry.created),
            format_duration(entry.ended - entry.started) if entry.ended and entry.started else "-",
            entry.error.message if entry.error is not None else "",
        )
        for entry in entries
    ]
    return table(
        ("session", "what", "result", "started", "took", "error"),
        rows,
        right=("session", "took"),
        fold=("error", "what"),
    )
