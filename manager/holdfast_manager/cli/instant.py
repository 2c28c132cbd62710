"""`holdfast instant …`."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

import click
import msgspec

from holdfast_agent.errors import NotFound
from holdfast_manager.catalog.values import SessionEntry, SessionKind, SessionState
from holdfast_manager.reports.table import table
from holdfast_manager.reports.times import moment

from .app import App, pass_app
from .commands import Group
from .naming import chosen_point, point_options
from .running import EXIT_CANCELLED, detach_option, run_session
from .serving import begin_serving, export_line, serving_agent, state_text

if TYPE_CHECKING:
    from holdfast_manager.sessions.requests import InstantRequest

_number = click.argument("number", type=click.IntRange(min=1))


class InstantLine(msgspec.Struct, frozen=True, kw_only=True):
    """A VM that runs from a restore point. ``state``: that of its export; interrupted: nobody serves its disks now.
    ``after``: the session that died and that this one, begun by the service, follows."""

    session: int
    state: str
    name: str
    server: str
    point: str
    proxy: str
    started: float | None
    after: int | None = None


@click.group(cls=Group)
def instant() -> None:
    """Instant recovery: a VM runs from its restore point within seconds, and moves to its own disks while it runs."""


@instant.command(
    examples=(
        "holdfast instant start --vm web --point latest --server kvm1 --name web-now",
        "holdfast instant start --point 3f2a1b0c --server kvm1 --listen unix:/run/holdfast-instant/web.sock",
    )
)
@point_options
@click.option("--server", required=True, help="The server that runs the VM; the proxy is on its host.")
@click.option("--name", help="What the VM is called there. Default: its name and -instant.")
@click.option("--disk", "disks", multiple=True, help="Only these disks, by name or id. Default: all.")
@click.option("--proxy", help="The agent on the server's host. Default: the repository's own, if it is a proxy.")
@click.option("--listen", default="", metavar="WHERE", help='"unix:/path" on that host, where QEMU may open it.')
@pass_app
def start(
    app: App,
    point: str,
    vm: str | None,
    repository: str | None,
    server: str,
    name: str | None,
    disks: tuple[str, ...],
    proxy: str | None,
    listen: str,
) -> int:
    """Start a VM from a restore point, without restoring it first.

    Its disks are served by the proxy; what it writes is kept there, through crashes and restarts of agent and manager.
    The restore point never changes, and cannot be pruned meanwhile. `holdfast instant migrate` brings the VM to disks
    of its own while it runs; `holdfast instant stop` removes it.
    """
    from holdfast_manager.sessions.requests import InstantRequest

    row = chosen_point(app.catalog, point, vm, repository)
    app.catalog.servers.get(server)
    request = InstantRequest(
        repository=row.repository,
        sid=row.sid,
        proxy=serving_agent(app, row.repository, proxy),
        export=secrets.token_hex(4),
        disks=disks,
        listen=listen,
        writable=True,
        keep=True,
        held=not row.held,
        server=server,
        name=name or f"{row.vm_name}-instant",
    )
    return _serve(app, request)


@instant.command(examples=("holdfast instant resume 12",))
@_number
@pass_app
def resume(app: App, number: int) -> int:
    """Serve the disks of a VM again whose session has ended; one that waits for them goes on, else it is started."""
    from holdfast_manager.sessions.kept_exports import resumable

    app.catalog.sessions.reap_dead()
    entry = _entry(app, number)
    resumable(app.catalog, number)
    return _serve(app, msgspec.structs.replace(_request(entry), resumed=True))


@instant.command("list", examples=("holdfast instant list",))
@pass_app
def list_(app: App) -> None:
    """VMs that run from restore points, and those whose disks nobody serves now."""
    from holdfast_manager.sessions.kept_exports import kept_exports

    app.catalog.sessions.reap_dead()
    lines = [_line(app, each) for each in app.catalog.sessions.living() if each.kind is SessionKind.INSTANT]
    kept = (each.session for each in kept_exports(app.catalog, app.keys))
    lines += [_line(app, each) for each in kept if each.kind is SessionKind.INSTANT]
    app.out.result({"instant": lines}, lambda: _table(lines))


@instant.command(examples=("holdfast instant migrate 12",))
@_number
@detach_option
@pass_app
def migrate(app: App, number: int, detach: bool) -> int:
    """Bring a VM that runs from its restore point to disks of its own, while it runs. NUMBER: its session.

    When it ends well the VM needs no export any more, and what it had written there is discarded. If it is stopped or
    fails, the VM goes on as it was.
    """
    return _settle(app, number, detach, migrate=True)


@instant.command(examples=("holdfast instant stop 12", "holdfast instant stop 12 --keep"))
@_number
@click.option("--keep", is_flag=True, help="Keep what it wrote: `resume` starts it from there again.")
@detach_option
@pass_app
def stop(app: App, number: int, keep: bool, detach: bool) -> int:
    """Stop a VM that runs from its restore point at once, and remove it with what it wrote."""
    return _settle(app, number, detach, migrate=False, keep=keep)


def _serve(app: App, request: InstantRequest) -> int:
    line = begin_serving(app, SessionKind.INSTANT, request)
    if line is None:
        return EXIT_CANCELLED
    told = _line(app, app.catalog.sessions.get(line.session))
    text = f"{request.name} runs on {request.server} from the restore point {request.sid[:12]}"
    text += f"\n`holdfast instant migrate {line.session}` brings it to disks of its own"
    app.out.result({"instant": told}, text)
    return 0


def _settle(app: App, number: int, detach: bool, *, migrate: bool, keep: bool = False) -> int:
    from holdfast_manager.sessions.requests import SettleRequest

    app.catalog.sessions.reap_dead()
    _entry(app, number)
    request = SettleRequest(instant=number, migrate=migrate, keep=keep)
    begin = partial(app.catalog.sessions.begin, SessionKind.SETTLE, msgspec.to_builtins(request))
    return run_session(app, begin, detach, strict=False)


def _entry(app: App, number: int) -> SessionEntry:
    entry = app.catalog.sessions.get(number)
    if entry.kind is not SessionKind.INSTANT:
        raise NotFound(kind="instant recovery", name=str(number), advice="`holdfast instant list` shows them")
    return entry


def _request(entry: SessionEntry) -> InstantRequest:
    from holdfast_manager.sessions.requests import InstantRequest

    return msgspec.convert(entry.spec, InstantRequest)


def _line(app: App, entry: SessionEntry) -> InstantLine:
    line, request = export_line(app, entry), _request(entry)
    return InstantLine(
        session=entry.id,
        state="interrupted" if entry.state is SessionState.ENDED else line.state,
        name=request.name,
        server=request.server,
        point=request.sid,
        proxy=request.proxy,
        started=entry.started,
        after=request.after,
    )


def _table(lines: list[InstantLine]) -> str:
    if not lines:
        return "No VM runs from a restore point"
    rows = [
        (str(each.session), each.name, each.server, each.point[:12], state_text(each.state, each.after), each.proxy,
         moment(each.started) if each.started else "-")
        for each in lines
    ]  # fmt: skip
    return table(("session", "VM", "server", "point", "state", "agent", "started"), rows, right=("session",))
