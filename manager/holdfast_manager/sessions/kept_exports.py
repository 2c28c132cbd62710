"""Exports that are kept: what was written to them lies on an agent, whether or not they are served now."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import HoldfastError, Locked, NotFound, UsageError
from holdfast_agent.wire.messages import (
    DiscardExport,
    Done,
    ExportList,
    KeptExport,
    ListExports,
    PointRetention,
    RetainPoint,
)
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import SessionDied
from holdfast_manager.catalog.values import SessionEntry, SessionKind, SessionState
from holdfast_manager.enrolment.agents import connected
from holdfast_manager.enrolment.points import asking
from holdfast_manager.enrolment.repositories import expect

from .requests import ExportRequest, InstantRequest

SERVING = (SessionKind.EXPORT, SessionKind.INSTANT)
_LOOKED_AT = 10_000


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An export that is not served now. ``session``: the last that served it. ``stored_bytes`` None: its agent could
    not be asked, and it may be there or not."""

    session: SessionEntry
    request: ExportRequest
    stored_bytes: int | None


def request_of(entry: SessionEntry) -> ExportRequest:
    """What an export's session was asked, or one that runs a VM from one. Raises ``NotFound`` for another kind."""
    if entry.kind not in SERVING:
        raise NotFound(kind="export", name=str(entry.id), advice="`holdfast export list` shows them")
    return msgspec.convert(entry.spec, ExportRequest)


def kept_exports(catalog: Catalog, keys: KeyPair) -> list[Kept]:
    """All that can be resumed or discarded, newest first. Asks the agents on which there may be any."""
    candidates = list(_candidates(catalog))
    there: dict[str, dict[str, KeptExport] | None] = {}
    for _, request in candidates:
        if request.proxy not in there:
            there[request.proxy] = _listed(catalog, request.proxy, keys)
    kept = []
    for entry, request in candidates:
        known = there[request.proxy]
        if known is None:
            kept.append(Kept(session=entry, request=request, stored_bytes=None))
        elif request.export in known:
            kept.append(Kept(session=entry, request=request, stored_bytes=known[request.export].stored_bytes))
    return kept


def resumable(catalog: Catalog, number: int) -> ExportRequest:
    """What the next session of a kept export is asked. Raises ``NotFound``, :class:`UsageError`, ``Locked``."""
    entry = catalog.sessions.get(number)
    request = request_of(entry)
    if not request.keep:
        raise UsageError(reason=f"export {number} was not started with --keep: nothing of it is left")
    _require_ended(catalog, request)
    return msgspec.structs.replace(request, resumed=True)


def discard(catalog: Catalog, number: int, keys: KeyPair) -> None:
    """Remove what was written to a kept export; its point may be pruned again. Raises as :func:`resumable`, and what
    the channel raises."""
    request = resumable(catalog, number)
    agent = catalog.agents.get(request.proxy)
    with connected(agent.endpoint, agent.public_key, keys) as client:
        expect(client.call(DiscardExport(export=request.export)), Done)
    others = (other.request for other in kept_exports(catalog, keys))
    if request.held and not any(other.sid == request.sid for other in others):
        _lift_hold(catalog, request, keys)


def _lift_hold(catalog: Catalog, request: ExportRequest, keys: KeyPair) -> None:
    path = catalog.repositories.get(request.repository).path
    with asking(catalog, request.repository, keys) as ask:
        reply = ask(RetainPoint(repository=path, sid=request.sid, hold=False), PointRetention)
    catalog.points.set_retention(request.sid, reply.retained.until, reply.retained.hold)


def interrupted(catalog: Catalog) -> list[tuple[SessionEntry, ExportRequest]]:
    """Exports whose last session died and that nobody had stopped, with what the next session is asked.

    Not those that are writable and not kept: what was written is gone with the lease of the session.
    """
    found = []
    for entry, request in _last(catalog):
        died = entry.error is not None and entry.error.code == SessionDied.code
        if died and not entry.stop_requested and (request.keep or not request.writable):
            convert = InstantRequest if entry.kind is SessionKind.INSTANT else ExportRequest
            whole = msgspec.convert(entry.spec, convert)
            found.append((entry, msgspec.structs.replace(whole, resumed=request.keep, after=entry.id)))
    return found


def _candidates(catalog: Catalog) -> Iterable[tuple[SessionEntry, ExportRequest]]:
    """Exports that are to be kept and are not served."""
    return ((entry, request) for entry, request in _last(catalog) if request.keep)


def _last(catalog: Catalog) -> Iterable[tuple[SessionEntry, ExportRequest]]:
    """The last session of each export that is not served."""
    seen: set[str] = set()
    sessions = [each for kind in SERVING for each in catalog.sessions.list(kind=kind, limit=_LOOKED_AT)]
    for entry in sessions:
        request = request_of(entry)
        if request.export not in seen and entry.state is SessionState.ENDED:
            yield entry, request
        seen.add(request.export)


def _require_ended(catalog: Catalog, request: ExportRequest) -> None:
    for entry in catalog.sessions.living():
        if entry.kind in SERVING and request_of(entry).export == request.export:
            raise Locked(what="the export", holder=f"session {entry.id}")


def _listed(catalog: Catalog, name: str, keys: KeyPair) -> dict[str, KeptExport] | None:
    try:
        agent = catalog.agents.get(name)
        with connected(agent.endpoint, agent.public_key, keys) as client:
            exports = expect(client.call(ListExports()), ExportList).exports
    except HoldfastError:
        return None
    return {export.name: export for export in exports}
