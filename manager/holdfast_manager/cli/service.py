"""`holdfast service …`."""

from __future__ import annotations

import click

from holdfast_manager.catalog.services import Leader
from holdfast_manager.catalog.values import JobSpec, Obligation
from holdfast_manager.reports.schedule_text import next_starts, next_text
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import facts, table
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Group


@click.group(cls=Group)
def service() -> None:
    """The Backup Service: runs jobs by their schedules, and cleans up after sessions that died."""


@service.command(examples=("holdfast service run", "systemctl enable --now holdfast"))
@pass_app
def run(app: App) -> None:
    """Run the service until SIGTERM. Sessions that it started go on without it, and the next one finds them.

    Several may run: one leads, the others stand by (on one host, or with PostgreSQL on several).
    """
    from holdfast_manager.service.service import BackupService

    app.log_as_service()
    BackupService(app.settings, app.catalog, app.config).run()


@service.command(examples=("holdfast service show",))
@pass_app
def show(app: App) -> None:
    """Whether a service leads, what it starts next, and what dead sessions left that it has to remove."""
    from holdfast_manager.service.leadership import leadership

    app.catalog.sessions.reap_dead()
    leads = leadership(app.settings, app.catalog).is_taken()
    leader = app.catalog.services.leader() if leads else None
    specs = [spec for spec in app.catalog.jobs.list() if spec.schedule is not None]
    starts = {spec.name: next_starts(spec) for spec in specs}
    owed = app.catalog.obligations.open_of()
    console = _console(app)
    document = {"leads": leads, "leader": leader, "console": console, "next": starts, "obligations": owed}
    app.out.result(document, lambda: "\n\n".join(_texts(leads, leader, console, specs, starts, owed)))


def _console(app: App) -> dict[str, str] | None:
    """Where the web console is, and by which fingerprint browsers know it."""
    listen = app.settings.console.listen
    if not listen:
        return None
    from holdfast_manager.console.certificate import known_fingerprint

    return {"address": f"https://{listen}/", "fingerprint": known_fingerprint(app.settings)}


def _texts(
    leads: bool,
    leader: Leader | None,
    console: dict[str, str] | None,
    specs: list[JobSpec],
    starts: dict[str, list[float]],
    owed: tuple[Obligation, ...],
) -> list[str]:
    who = (
        f"{leader.process}, since {moment(leader.since)}"
        if leader is not None
        else "yes"
        if leads
        else "none runs (`holdfast service run`, or `systemctl start holdfast`)"
    )
    lines = [("Service", who), ("Jobs", f"{counted(len(specs), 'job')} with a schedule")]
    if console is not None:
        known = console["fingerprint"] or "not made yet"
        lines.append(("Web console", f"{console['address']}\ncertificate (SHA-256): {known}"))
    shown = [facts(lines)]
    if specs:
        ordered = sorted(specs, key=lambda spec: (starts[spec.name][:1] or [float("inf")], spec.name))
        shown.append(table(("job", "next"), [(spec.name, next_text(spec, starts[spec.name])) for spec in ordered]))
    if owed:
        rows = [(each.server, each.kind, str(each.session), str(each.attempts), each.last_error) for each in owed]
        shown.append(table(("server", "left", "session", "attempts", "last error"), rows, fold=("last error",)))
    return shown
