"""`holdfast export …`."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click
import msgspec

from holdfast_agent.errors import HoldfastError, UsageError, from_record
from holdfast_manager.catalog.values import SessionEntry, SessionKind, SessionState, TaskEntry
from holdfast_manager.reports.table import table
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Group
from .following import POLL_S, interrupts
from .naming import chosen_point, chosen_proxy, point_options
from .running import EXIT_CANCELLED, Launched

if TYPE_CHECKING:
    from holdfast_manager.sessions.requests import ExportRequest

    from .instant import InstantLine

_number = click.argument("number", type=click.IntRange(min=1))
_STOP_S = 60.0
_SERVING = "transferring"


class ExportEnded(HoldfastError):
    """An export's session ended before its disks could be used, without saying why."""

    code = "export_ended"
    message = "session {session} ended before its disks could be used"
    action = "`holdfast session show {session}` tells more"


class ExportDiskLine(msgspec.Struct, frozen=True, kw_only=True):
    """One disk that can be used now. ``uri``: as NBD clients take it."""

    disk: str
    uri: str


class ExportLine(msgspec.Struct, frozen=True, kw_only=True):
    """An export, which is a session. ``state``: starting, serving, waiting (to be started again) or stopping; kept: not
    served, with ``stored_bytes`` of what was written; unknown: the same if its agent, which is away, still has it.
    ``after``: the session that died and that this one, begun by the service, follows."""

    session: int
    state: str
    point: str
    vm: str
    proxy: str
    started: float | None
    writable: bool = False
    keep: bool = False
    disks: tuple[ExportDiskLine, ...] = ()
    stored_bytes: int | None = None
    after: int | None = None


@click.group(cls=Group)
def export() -> None:
    """Exports: disks of restore points served over NBD, without restoring them first."""


@export.command(
    examples=(
        "holdfast export start --vm web --point latest",
        "holdfast export start --point 3f2a1b0c --disk root.img --listen unix:/run/vm/root.sock",
        "holdfast export start --point 3f2a1b0c --listen tls",
        "holdfast export start --vm web --point latest --writable --keep",
    )
)
@point_options
@click.option("--disk", "disks", multiple=True, help="Name or id of a disk; may be given again. Default: all.")
@click.option("--proxy", help="The agent that serves. Default: the repository's own, if it is a proxy.")
@click.option(
    "--listen",
    default="",
    metavar="WHERE",
    help='"unix:/path" on the proxy, or "tls": TCP for clients with a certificate. Default: a socket of the agent.',
)
@click.option("--writable", is_flag=True, help="Let clients write, to a layer above the restore point.")
@click.option("--keep", is_flag=True, help="Keep what they write when the export is stopped, to `resume` it later.")
@pass_app
def start(
    app: App,
    point: str,
    vm: str | None,
    repository: str | None,
    disks: tuple[str, ...],
    proxy: str | None,
    listen: str,
    writable: bool,
    keep: bool,
) -> int:
    """Serve the disks of a restore point over NBD, and print where; goes on until `holdfast export stop`.

    Every block is fetched when a client asks for it, and checked by its id or its seal. The restore point never
    changes. A Unix socket can be opened by the agent's user (and root) only. With --writable what was flushed survives
    crashes and restarts of the agent; when the export is stopped, or its manager is gone for good, it is discarded
    unless --keep was given. The restore point cannot be pruned meanwhile.
    """
    from holdfast_manager.sessions.requests import ExportRequest

    if keep and not writable:
        raise UsageError(reason="--keep is for what clients write: it needs --writable")
    row = chosen_point(app.catalog, point, vm, repository)
    request = ExportRequest(
        repository=row.repository,
        sid=row.sid,
        proxy=serving_agent(app, row.repository, proxy),
        export=secrets.token_hex(4),
        disks=disks,
        listen=listen,
        writable=writable,
        keep=keep,
        held=keep and not row.held,
    )
    return _serve(app, request)


@export.command(examples=("holdfast export resume 12",))
@_number
@pass_app
def resume(app: App, number: int) -> int:
    """Serve a kept export again, with what was written to it, by a new session. NUMBER: the one that served it."""
    from holdfast_manager.enrolment.exports import resumable

    app.catalog.sessions.reap_dead()
    return _serve(app, resumable(app.catalog, number))


@export.command(examples=("holdfast export discard 12",))
@_number
@pass_app
def discard(app: App, number: int) -> None:
    """Throw away what was written to a kept export that is stopped. NUMBER: the session that served it last."""
    from holdfast_manager.enrolment.exports import discard as discard_export

    app.catalog.sessions.reap_dead()
    discard_export(app.catalog, number, app.keys)
    app.out.result({"session": number, "discarded": True}, f"What was written to export {number} is gone")


@export.command("list", examples=("holdfast export list",))
@pass_app
def list_(app: App) -> None:
    """Exports that are served now, and those that are kept."""
    from holdfast_manager.enrolment.exports import kept_exports

    app.catalog.sessions.reap_dead()
    lines = [export_line(app, entry) for entry in app.catalog.sessions.living() if entry.kind is SessionKind.EXPORT]
    for kept in kept_exports(app.catalog, app.keys):
        if kept.session.kind is not SessionKind.EXPORT:
            continue
        line = export_line(app, kept.session)
        state = "kept" if kept.stored_bytes is not None else "unknown"
        lines.append(msgspec.structs.replace(line, state=state, stored_bytes=kept.stored_bytes))
    app.out.result({"exports": lines}, lambda: _table(lines))


@export.command(examples=("holdfast export stop 12",))
@_number
@pass_app
def stop(app: App, number: int) -> None:
    """Stop an export: whoever uses its disks loses them, and what was written is discarded unless it is to be kept."""
    from holdfast_manager.enrolment.exports import request_of

    app.catalog.sessions.reap_dead()
    entry = app.catalog.sessions.get(number)
    request_of(entry)
    app.catalog.sessions.request_stop(number)
    deadline = time.monotonic() + _STOP_S
    while entry.state is not SessionState.ENDED and time.monotonic() < deadline:
        time.sleep(POLL_S / 3)
        app.catalog.sessions.reap_dead()
        entry = app.catalog.sessions.get(number)
    ended = entry.state is SessionState.ENDED
    text = f"Export {number} has ended" if ended else f"Export {number} stops by itself"
    app.out.result({"session": number, "ended": ended}, text)


def _serve(app: App, request: ExportRequest) -> int:
    """Start the session of an export and wait until its disks can be used; returns the exit code."""
    line = begin_serving(app, SessionKind.EXPORT, request)
    if line is None:
        return EXIT_CANCELLED
    app.out.result({"export": line}, _started_text(line))
    return 0


def begin_serving(app: App, kind: SessionKind, request: ExportRequest) -> ExportLine | None:
    """Start a session that serves, and wait until it does; None if somebody interrupts that. Raises why it cannot."""
    from holdfast_manager.sessions.birth import forked
    from holdfast_manager.sessions.launch import SessionLauncher

    with SessionLauncher(app.settings, app.config, forked) as launcher:
        entry = app.catalog.sessions.begin(kind, msgspec.to_builtins(request))
        launched = Launched(app, entry)
        with interrupts() as interrupt:
            launched.begin(launcher.run(entry.id))
            while not interrupt.count:
                launched.check()
                line = _started(app, entry.id)
                if line is not None:
                    return line
                time.sleep(POLL_S / 3)
    app.catalog.sessions.request_stop(entry.id)
    return None


def serving_agent(app: App, repository: str, proxy: str | None) -> str:
    """Where the repository is, nothing goes over the network: that agent, if it may hold keys."""
    keeper = app.catalog.repositories.get(repository).agent
    if proxy is None and keeper in app.catalog.agents.proxies():
        return keeper
    return chosen_proxy(app.catalog, proxy)


def _started(app: App, number: int) -> ExportLine | None:
    """The export once it can be used. Raises why it cannot be."""
    line = export_line(app, app.catalog.sessions.get(number))
    if line.state == "serving":
        return line
    tasks = app.catalog.tasks.list(number)
    entry = app.catalog.sessions.get(number)  # after the tasks: what ended has told all
    error = next((task.error for task in tasks if task.error is not None), None)
    if error is not None and entry.state is not SessionState.ENDED:
        app.catalog.sessions.request_stop(number)  # it would try on for ever; somebody waits here
        raise from_record(error)
    if entry.state is SessionState.ENDED:
        raise from_record(entry.error) if entry.error is not None else ExportEnded(session=number)
    return None


def export_line(app: App, entry: SessionEntry) -> ExportLine:
    """How an export is now, which its session tells."""
    task = next(iter(app.catalog.tasks.list(entry.id)), None)
    disks = _disks(task)
    state: str = entry.state.value
    if entry.state is SessionState.RUNNING:
        state = "serving" if disks else "waiting" if task is not None and task.error is not None else "starting"
    return ExportLine(
        session=entry.id,
        state=state,
        point=str(entry.spec.get("sid", "")),
        vm=task.vm_name if task is not None else "",
        proxy=str(entry.spec.get("proxy", "")),
        started=entry.started,
        writable=bool(entry.spec.get("writable")),
        keep=bool(entry.spec.get("keep")),
        disks=disks,
        after=entry.spec.get("after"),
    )


def _disks(task: TaskEntry | None) -> tuple[ExportDiskLine, ...]:
    """The disks of an export that serves; none of one that does not (any more)."""
    if task is None or task.state != _SERVING:
        return ()
    uris = task.reason.split()
    return tuple(ExportDiskLine(disk=unquote(urlsplit(uri).path.removeprefix("/")), uri=uri) for uri in uris)


def _started_text(line: ExportLine) -> str:
    uris = "\n".join(f"  {disk.disk}: {disk.uri}" for disk in line.disks)
    return f"{uris}\nIt goes on until `holdfast export stop {line.session}`"


def state_text(line: ExportLine | InstantLine) -> str:
    """For people."""
    return line.state if line.after is None else f"{line.state} (session {line.after} died)"


def _table(lines: list[ExportLine]) -> str:
    if not lines:
        return "No exports"
    rows: list[tuple[str, ...]] = []
    for line in lines:
        started = moment(line.started) if line.started else "-"
        first, *more = [disk.uri for disk in line.disks] or ["-"]
        rows.append((str(line.session), line.vm, line.point[:12], state_text(line), line.proxy, started, first))
        rows += [("", "", "", "", "", "", uri) for uri in more]
    return table(("session", "VM", "point", "state", "agent", "started", "disks"), rows, right=("session",))
