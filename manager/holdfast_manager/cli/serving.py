"""Sessions that serve disks of a restore point: where, their start, and how they are now. For several commands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from holdfast_agent.errors import HoldfastError, from_record
from holdfast_manager.catalog.values import SessionEntry, SessionKind, SessionState, TaskEntry

from .app import App
from .following import POLL_S, interrupts
from .naming import chosen_proxy
from .running import Launched

if TYPE_CHECKING:
    from holdfast_manager.sessions.requests import ExportRequest

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


def state_text(state: str, after: int | None) -> str:
    """For people. ``after``: the session that died and that this one follows."""
    return state if after is None else f"{state} (session {after} died)"
