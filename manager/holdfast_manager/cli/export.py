"""`holdfast export …`."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import click
import msgspec

from holdfast_agent.errors import UsageError
from holdfast_manager.catalog.values import SessionKind, SessionState
from holdfast_manager.reports.table import table
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Group
from .following import POLL_S
from .naming import chosen_point, point_options
from .running import EXIT_CANCELLED
from .serving import ExportLine, begin_serving, export_line, serving_agent, state_text

if TYPE_CHECKING:
    from holdfast_manager.sessions.requests import ExportRequest

_number = click.argument("number", type=click.IntRange(min=1))
_STOP_S = 60.0


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
    from holdfast_manager.sessions.kept_exports import resumable

    app.catalog.sessions.reap_dead()
    return _serve(app, resumable(app.catalog, number))


@export.command(examples=("holdfast export discard 12",))
@_number
@pass_app
def discard(app: App, number: int) -> None:
    """Throw away what was written to a kept export that is stopped. NUMBER: the session that served it last."""
    from holdfast_manager.sessions.kept_exports import discard as discard_export

    app.catalog.sessions.reap_dead()
    discard_export(app.catalog, number, app.keys)
    app.out.result({"session": number, "discarded": True}, f"What was written to export {number} is gone")


@export.command("list", examples=("holdfast export list",))
@pass_app
def list_(app: App) -> None:
    """Exports that are served now, and those that are kept."""
    from holdfast_manager.sessions.kept_exports import kept_exports

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
    from holdfast_manager.sessions.kept_exports import request_of

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


def _started_text(line: ExportLine) -> str:
    uris = "\n".join(f"  {disk.disk}: {disk.uri}" for disk in line.disks)
    return f"{uris}\nIt goes on until `holdfast export stop {line.session}`"


def _table(lines: list[ExportLine]) -> str:
    if not lines:
        return "No exports"
    rows: list[tuple[str, ...]] = []
    for line in lines:
        started = moment(line.started) if line.started else "-"
        first, *more = [disk.uri for disk in line.disks] or ["-"]
        rows.append(
            (
                str(line.session),
                line.vm,
                line.point[:12],
                state_text(line.state, line.after),
                line.proxy,
                started,
                first,
            )
        )
        rows += [("", "", "", "", "", "", uri) for uri in more]
    return table(("session", "VM", "point", "state", "agent", "started", "disks"), rows, right=("session",))
