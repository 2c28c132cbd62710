"""What all commands that start a session share: launch its process, follow it, tell the result, give the exit code."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.values import SessionEntry, SessionKind, SessionResult, SessionState
from holdfast_manager.reports.gathering import whole_report
from holdfast_manager.reports.session_report import SessionReport
from holdfast_manager.reports.session_text import summary_text
from holdfast_manager.sessions.birth import forked
from holdfast_manager.sessions.launch import SessionLauncher, SessionNotStarted

from .app import App
from .displays import display_for
from .following import POLL_S, Interrupt, follow, interrupts

EXIT_FAILED = 1
EXIT_PARTIAL = 3
EXIT_WARNINGS = 4
EXIT_VERIFICATION = 14
EXIT_CANCELLED = 130

detach_option = click.option("--detach", is_flag=True, help="Start the session and return; `session follow` shows it.")
strict_option = click.option("--strict", is_flag=True, help="Exit with 4, not 0, when it ends with warnings.")


def run_session(app: App, begin: Callable[[], SessionEntry], detach: bool, strict: bool) -> int:
    """Run the session that ``begin`` writes down; returns the exit code. Ctrl-C stops it, a second one leaves it.

    Its process starts while ``begin`` opens the catalogue. Raises what ``begin`` raises.
    """
    with SessionLauncher(app.settings, app.config, forked) as launcher:
        entry = begin()
        launched = Launched(app, entry)
        with interrupts() as interrupt:
            launched.begin(launcher.run(entry.id))
            return _see_through(launched, interrupt, detach, strict, launcher.wait)


def _see_through(
    launched: Launched, interrupt: Interrupt, detach: bool, strict: bool, wait: Callable[[float], None]
) -> int:
    app, entry = launched.app, launched.entry
    if detach:
        launched.wait_until_adopted(interrupt)
        text = f"Session {entry.id} runs; `holdfast session follow {entry.id}` shows it"
        app.out.result({"session": entry.id}, text)
        return 0
    ended = follow(app.catalog, entry.id, display_for(app), interrupt, launched.interrupted, launched.check, wait)
    if not ended:
        app.out.note(f"Session {entry.id} stops by itself; `holdfast session show {entry.id}` tells how it ended")
        return EXIT_CANCELLED
    return tell(app, entry.id, strict)


def tell(app: App, number: int, strict: bool) -> int:
    """Print the report of a session that has ended; returns its exit code."""
    report = whole_report(app.catalog, number)
    app.out.result(report, lambda: summary_text(report))
    return exit_code(report, strict)


def exit_code(report: SessionReport, strict: bool = False) -> int:
    """What a session's end means for scripts."""
    if report.kind is SessionKind.VERIFY and any(each.code == "verification_failed" for each in report.problems):
        return EXIT_VERIFICATION
    match report.result:
        case SessionResult.SUCCESS:
            return 0
        case SessionResult.WARNING:
            return EXIT_WARNINGS if strict else 0
        case SessionResult.PARTIAL:
            return EXIT_PARTIAL
        case SessionResult.CANCELLED:
            return EXIT_CANCELLED
        case SessionResult.FAILED | SessionResult.NONE:
            return report.error.exit_code if report.error is not None else EXIT_FAILED


class Launched:
    """A session process of ours, as long as we follow it."""

    def __init__(self, app: App, entry: SessionEntry) -> None:
        self.app = app
        self.entry = entry
        self._process: ProcessIdentity | None = None

    def begin(self, pid: int) -> None:
        try:
            self._process = ProcessIdentity.of(pid)
        except ProcessLookupError:
            self._process = None  # gone already

    def check(self) -> None:
        """End a session whose process died before it took the session over: until then we answer for it."""
        if self._process is not None and not self._process.is_dead():
            return
        catalog = self.app.catalog
        if catalog.sessions.get(self.entry.id).state is SessionState.STARTING:
            log = self.app.settings.log_dir / f"session-{self.entry.id}.log"
            error = SessionNotStarted(session=self.entry.id, log=str(log))
            catalog.sessions.end(self.entry.id, SessionResult.FAILED, error.to_record())

    def interrupted(self, count: int) -> bool:
        """The first Ctrl-C asks the session to stop, and we see it through; at the second we leave."""
        if count == 1:
            self.app.catalog.sessions.request_stop(self.entry.id)
            self.app.out.warning(f"stopping session {self.entry.id}, which cleans up first; Ctrl-C again to leave it")
        return count == 1

    def wait_until_adopted(self, interrupt: Interrupt) -> None:
        """Return once the session's process answers for it. Raises :class:`SessionNotStarted`."""
        while self.app.catalog.sessions.get(self.entry.id).state is SessionState.STARTING and not interrupt.count:
            self.check()
            time.sleep(POLL_S / 3)
        ended = self.app.catalog.sessions.get(self.entry.id)
        if ended.error is not None and ended.error.code == SessionNotStarted.code:
            log = self.app.settings.log_dir / f"session-{self.entry.id}.log"
            raise SessionNotStarted(session=self.entry.id, log=str(log))
