"""`holdfast job …`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from holdfast_agent.errors import NotFound, OutsideWindow, UsageError
from holdfast_agent.model import strict
from holdfast_agent.model.change import AuditRate
from holdfast_agent.model.units import format_rate, format_size
from holdfast_manager.catalog.job_tables import job_from_table, job_to_table
from holdfast_manager.catalog.values import (
    CopySettings,
    JobSpec,
    SessionEntry,
    SessionKind,
    SessionResult,
    SessionState,
)
from holdfast_manager.reports.retention_text import policy_text
from holdfast_manager.reports.schedule_text import next_starts, next_text, schedule_facts
from holdfast_manager.reports.sentences import counted
from holdfast_manager.reports.table import facts, table
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .approving import lowered_retention, require_approval
from .boot_options import boot_text
from .commands import Group
from .job_options import check_plugin_options, given_table, job_options, merged, without
from .running import detach_option, run_session, strict_option


@click.group(cls=Group)
def job() -> None:
    """Jobs: what is backed up or copied, and where to."""


@job.command(
    examples=(
        "holdfast job create nightly --server lab --include '*' --exclude 'test-*' --repository main",
        "holdfast job create web --server lab --include web --repository main --guest-processor scripts \\",
        "    --guest-option pre_freeze=/etc/holdfast/freeze --guest-policy try --schedule 'mon-fri 22:00' \\",
        "    --schedule-zone Europe/Berlin --window 22:00-06:00",
        "holdfast job create offsite --copy-from main --repository far --immediate --keep-days 30 --keep-monthly 12",
        "holdfast job create nightly --from nightly.toml",
    )
)
@click.argument("name")
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE",
    help="A TOML file with the keys of one job (configs/jobs.toml explains them); options given besides win.",
)  # fmt: skip
@click.option("--disabled", is_flag=True, help="Create it, but do not run it on schedule.")
@job_options
@pass_app
def create(app: App, /, name: str, source: Path | None, disabled: bool, **given: Any) -> None:
    """Create a backup job, or with --copy-from one that copies restore points to another repository."""
    table = strict.read_toml(source) if source is not None else {}
    table = merged(table, given_table(given))
    if disabled:
        table["enabled"] = False
    _require(table, source)
    spec = job_from_table({**table, "name": name}, str(source) if source else "options")
    _check_plugin_options(app, spec)
    require_approval(app, lowered_retention(app, [spec]))
    app.catalog.jobs.add(spec)
    app.out.result({"job": job_to_table(spec)}, f"Created job {name}; `holdfast job run {name}` runs it now")


@job.command("list", examples=("holdfast job list",))
@pass_app
def list_(app: App) -> None:
    """All jobs, with how each ended last."""
    app.catalog.sessions.reap_dead()
    specs = app.catalog.jobs.list()
    last = {spec.name: next(iter(app.catalog.sessions.list(job=spec.name, limit=1)), None) for spec in specs}
    document = [
        {"job": job_to_table(spec), "last_session": last[spec.name], "next": next_starts(spec)} for spec in specs
    ]
    app.out.result({"jobs": document}, lambda: _table(specs, last))


@job.command(examples=("holdfast job show nightly",))
@click.argument("name")
@pass_app
def show(app: App, name: str) -> None:
    """One job with all its settings."""
    spec = app.catalog.jobs.get(name)
    starts = next_starts(spec)
    app.out.result({"job": job_to_table(spec), "next": starts}, lambda: facts(_settings(spec, starts)))


@job.command(
    examples=(
        "holdfast job edit nightly --exclude 'test-*' --bandwidth '50 MiB'",
        "holdfast job edit nightly --schedule 'daily 22:00' --schedule 'sat,sun 10:00'",
        "holdfast job edit nightly --reset bandwidth",
    )
)
@click.argument("name")
@click.option("--reset", multiple=True, metavar="KEY", help="Put a setting back to its default (repeatable).")
@job_options
@pass_app
def edit(app: App, /, name: str, reset: tuple[str, ...], **given: Any) -> None:
    """Change a job; what is not named stays. A list that is given replaces the whole list."""
    change = given_table(given)
    if not change and not reset:
        raise UsageError(reason="nothing to change; see `holdfast job edit --help`")
    table = merged(without(job_to_table(app.catalog.jobs.get(name)), reset), change)
    spec = job_from_table(table, "options")
    _check_plugin_options(app, spec)
    require_approval(app, lowered_retention(app, [spec]))
    app.catalog.jobs.update(spec)
    app.out.result({"job": job_to_table(spec)}, f"Changed job {name}")


@job.command(examples=("holdfast job remove nightly",))
@click.argument("name")
@pass_app
def remove(app: App, name: str) -> None:
    """Remove a job. Its restore points and its sessions' logs stay."""
    app.catalog.sessions.reap_dead()
    require_approval(app, [f"job {app.catalog.jobs.get(name).name}"])
    app.catalog.jobs.remove(name)
    app.out.result({"removed": name}, f"Removed job {name}; its restore points stay")


@job.command(examples=("holdfast job enable nightly",))
@click.argument("name")
@pass_app
def enable(app: App, name: str) -> None:
    """Have a job run on schedule again."""
    _set_enabled(app, name, True)


@job.command(examples=("holdfast job disable nightly",))
@click.argument("name")
@pass_app
def disable(app: App, name: str) -> None:
    """Have a job not run on schedule; `job run` still runs it."""
    _set_enabled(app, name, False)


@job.command(
    examples=(
        "holdfast job run nightly",
        "holdfast job run nightly --detach",
        "holdfast job run nightly --in-window",
        "holdfast job run nightly --output json",
    )
)
@click.argument("name")
@click.option("--in-window", is_flag=True, help="Only where a window of its schedule is open now; else exit with 20.")
@detach_option
@strict_option
@pass_app
def run(app: App, name: str, in_window: bool, detach: bool, strict: bool) -> int:
    """Run a job now and follow it to its end.

    Ctrl-C asks the session to stop, and waits until it has cleaned up; a second Ctrl-C leaves it to itself.
    """

    from holdfast_manager.sessions.requests import of_job

    def begin() -> SessionEntry:
        app.catalog.sessions.reap_dead()
        spec = app.catalog.jobs.get(name)
        if in_window and spec.schedule is not None and not spec.schedule.allows(time.time()):
            raise OutsideWindow(job=name, windows=", ".join(spec.schedule.windows))
        return app.catalog.sessions.begin_job(name, of_job(spec))

    return run_session(app, begin, detach, strict)


@job.command(examples=("holdfast job retry nightly", "holdfast job retry nightly --detach"))
@click.argument("name")
@detach_option
@strict_option
@pass_app
def retry(app: App, name: str, detach: bool, strict: bool) -> int:
    """Run a job again for those VMs only of which its newest session made no point; of a copy job, what is missing.

    As after `job run`, Ctrl-C asks the session to stop. The service does the same by itself after sessions that it
    began (`--session-retries`).
    """
    from holdfast_manager.sessions.requests import of_job

    def begin() -> SessionEntry:
        app.catalog.sessions.reap_dead()
        spec = app.catalog.jobs.get(name)
        return app.catalog.sessions.begin_job(name, of_job(spec, _session_to_retry(app, spec)))

    return run_session(app, begin, detach, strict)


def _session_to_retry(app: App, spec: JobSpec) -> int:
    """The job's newest session. Raises ``NotFound`` where there is none, ``UsageError`` where it left nothing to do."""
    kind = SessionKind.BACKUP if spec.copy is None else SessionKind.COPY
    sessions = app.catalog.sessions.list(job=spec.name, kind=kind, limit=1)
    advice = f"`holdfast job run {spec.name}` runs all of it"
    if not sessions:
        raise NotFound(kind="session of the job", name=spec.name, advice=advice)
    if sessions[0].result in (SessionResult.SUCCESS, SessionResult.WARNING):
        raise UsageError(reason=f"session {sessions[0].id}, the newest of the job, left nothing out; {advice}")
    return sessions[0].id


@job.command(examples=("holdfast job stop nightly",))
@click.argument("name")
@pass_app
def stop(app: App, name: str) -> None:
    """Ask a job's running session to stop. What is under way is cleaned up; committed points stay."""
    app.catalog.sessions.reap_dead()
    app.catalog.jobs.get(name)
    running = [session for session in app.catalog.sessions.living() if session.job == name]
    if not running:
        raise NotFound(
            kind="running session of the job",
            name=name,
            advice=f"`holdfast session list --job {name}` shows those that ran",
        )
    for session in running:
        app.catalog.sessions.request_stop(session.id)
    numbers = [session.id for session in running]
    text = f"Asked session {numbers[0]} to stop; `holdfast session follow {numbers[0]}` shows how it does"
    app.out.result({"stopping": numbers}, text)


def _check_plugin_options(app: App, spec: JobSpec) -> None:
    if spec.server is not None:
        check_plugin_options(app.host, app.catalog.servers.get(spec.server), spec)


def _require(table: dict[str, Any], source: Path | None) -> None:
    for key in ("repository",) if "copy" in table else ("server", "include", "repository"):
        if key not in table:
            place = f"{source} has no {key!r}" if source is not None else f"a job needs --{key}"
            raise UsageError(reason=f"{place}; see `holdfast job create --help`")


def _set_enabled(app: App, name: str, enabled: bool) -> None:
    spec = msgspec.structs.replace(app.catalog.jobs.get(name), enabled=enabled)
    app.catalog.jobs.update(spec)
    app.out.result({"job": job_to_table(spec)}, f"{'Enabled' if enabled else 'Disabled'} job {name}")


def _table(specs: tuple[JobSpec, ...], last: dict[str, SessionEntry | None]) -> str:
    if not specs:
        return "No jobs yet; `holdfast job create` makes one"
    rows = [
        (
            spec.name,
            f"copy of {spec.source}" if spec.copy is not None else spec.source,
            (", ".join(spec.include) or "all") + (f" but not {', '.join(spec.exclude)}" if spec.exclude else ""),
            spec.repository,
            next_text(spec, next_starts(spec)),
            _ended(last[spec.name]),
        )
        for spec in specs
    ]
    return table(("job", "source", "VMs", "repository", "next", "last session"), rows, fold=("VMs",))


def _ended(session: SessionEntry | None) -> str:
    if session is None:
        return "never ran"
    state = session.result.value if session.state is SessionState.ENDED else session.state.value
    return f"{session.id}: {state}, {moment(session.ended or session.started or session.created)}"


def _audit_text(rate: AuditRate) -> str:
    if rate.off:
        return "off: what change tracking misses is never noticed"
    share = f"{rate.percent:g} % of the unchanged blocks" if rate.percent else f"{rate.blocks} unchanged blocks"
    return f"{share} of each disk and run are read and compared"


def _settings(spec: JobSpec, starts: list[float]) -> list[tuple[str, str]]:
    return [
        ("Job", spec.name + ("" if spec.enabled else " (disabled)")),
        *([("Description", spec.description)] if spec.description else []),
        *(_source(spec, spec.copy) if spec.copy is not None else [("Server", spec.source)]),
        ("VMs", ", ".join(spec.include) or "all"),
        ("But not", ", ".join(spec.exclude) or "-"),
        ("Repository", spec.repository),
        ("Proxies", ", ".join(spec.proxies) + ", then any other" if spec.proxies else "any"),
        ("Transfer", _transfer(spec)),
        ("Bandwidth", "no limit" if spec.bandwidth_bytes_per_s is None else format_rate(spec.bandwidth_bytes_per_s)),
        ("Priority", spec.priority.value + (f", at most {spec.max_tasks} disks at once" if spec.max_tasks else "")),
        ("Retries", f"{spec.retries}, after {spec.retry_pause_s:g} s each"),
        *schedule_facts(spec, starts),
        ("Retention", policy_text(spec.retention)),
        ("Boot proof", boot_text(spec.verify_boot)),
        *(_of_backups(spec) if spec.copy is None else []),
    ]


def _transfer(spec: JobSpec) -> str:
    blocks = f"blocks of {format_size(spec.block_bytes)}" if spec.copy is None else "blocks as they are"
    return f"{spec.compression.value}, {blocks}, {counted(spec.streams, 'stream')}"


def _source(spec: JobSpec, copy: CopySettings) -> list[tuple[str, str]]:
    return [
        ("Copies from", spec.source),
        ("Made by jobs", ", ".join(copy.jobs) or "any"),
        ("Suspect points", "copied, too" if copy.suspect else "left out, and told"),
    ]


def _of_backups(spec: JobSpec) -> list[tuple[str, str]]:
    guest = "none"
    if spec.guest is not None:
        options = "".join(f"\n{key} = {value}" for key, value in sorted(spec.guest.options.items()))
        guest = f"{spec.guest.processor}, {spec.guest.policy.value}{options}"
    return [
        ("Guest", guest),
        ("Without CBT", spec.on_cbt_loss.value),
        ("Audit of CBT", _audit_text(spec.audit_rate)),
        ("Unused blocks", "left out where a file system tells them" if spec.skip_unused else "kept, bit for bit"),
        ("Snapshot", "\n".join(f"{key} = {value}" for key, value in sorted(spec.snapshot.items())) or "as the server"),
    ]
