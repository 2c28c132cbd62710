"""What is told of a session."""

from __future__ import annotations

import secrets
import socket

import msgspec

from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.values import SessionEntry, SessionKind, SessionResult, SessionState
from holdfast_manager.reports.session_html import session_html
from holdfast_manager.reports.session_report import SessionReport, session_report
from holdfast_manager.reports.session_text import outcome, session_text
from holdfast_manager.reports.table import printable
from holdfast_plugins.api import Notice, Severity

_SEVERITIES = {
    SessionResult.WARNING: Severity.WARNING,
    SessionResult.PARTIAL: Severity.ERROR,
    SessionResult.FAILED: Severity.ERROR,
}
_MAX_SUBJECT = 200


def trial_report(now: float) -> SessionReport:
    """Of a session that never was, for a manager that has not run any."""
    entry = SessionEntry(
        id=0,
        kind=SessionKind.BACKUP,
        job="example",
        state=SessionState.ENDED,
        result=SessionResult.SUCCESS,
        created=now,
        started=now,
        ended=now,
        process=ProcessIdentity.current(),
    )
    return session_report(entry, (), ())


def notice_of(report: SessionReport, notifier: str, trial: bool = False) -> Notice:
    """The notice for ``notifier`` of a session that has ended. ``trial``: it is sent because somebody tries it."""
    host = socket.gethostname()
    subject = printable(f"{'Test: ' if trial else ''}Holdfast: {report.what}: {outcome(report)}")
    key = f"holdfast-session-{report.id}-{int(report.created)}-{notifier}"
    return Notice(
        key=f"{key}-{secrets.token_hex(4)}" if trial else key,
        severity=_SEVERITIES.get(report.result, Severity.INFO),
        session=report.id,
        kind=report.kind.value,
        job=report.job,
        result=report.result.value,
        host=host,
        started=report.started or report.created,
        ended=report.ended or report.created,
        subject=subject[:_MAX_SUBJECT],
        text=session_text(report),
        html=session_html(report),
        facts=msgspec.to_builtins(report),
    )
