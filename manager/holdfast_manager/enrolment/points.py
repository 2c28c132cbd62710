"""Restore points as their repositories have them: read whole, authenticated, and brought into the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import FormatUnsupported, PointNotAuthentic, UndoWindowOver
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import ListPoints, PointList, ReadPoint, Reply, Request, RetainedPoint, UndoTombstone
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.doubts import doubted_by_audits
from holdfast_manager.catalog.point_rows import row_of_point
from holdfast_manager.catalog.repository_keys import repository_keys
from holdfast_manager.catalog.values import PointEntryRow, PointState

from .agents import connected
from .repositories import expect

R = TypeVar("R", bound=Reply)


class Ask(Protocol):
    """Sends a request to the agent of a repository; returns its reply, which must be of the kind given."""

    def __call__(self, request: Request, kind: type[R], /) -> R: ...


class Authentic(msgspec.Struct, frozen=True):
    """``points`` are authentic; ``refused``: ids of those that are not, or too new to be read."""

    points: tuple[Point, ...]
    refused: tuple[str, ...]


class Listed(msgspec.Struct, frozen=True):
    """What a repository has: ``rows`` of its authentic points, and ids of those that are not, or too new to be read."""

    rows: tuple[PointEntryRow, ...]
    refused: tuple[str, ...]


@contextmanager
def asking(catalog: Catalog, repository: str, keys: KeyPair) -> Iterator[Ask]:
    """A connection to the agent of ``repository``, for a few requests."""
    agent = catalog.agents.get(catalog.repositories.get(repository).agent)
    with connected(agent.endpoint, agent.public_key, keys) as client:

        def ask(request: Request, kind: type[R], /) -> R:
            return expect(client.call(request), kind)

        yield ask


def read_point(catalog: Catalog, row: PointEntryRow, keys: KeyPair) -> Point:
    """The whole point behind a row of the catalogue, as its repository has it and authenticated.

    Raises ``PointNotAuthentic``, ``PointNotFound`` when the repository has it no more, and what the channel raises.
    """
    entry = catalog.repositories.get(row.repository)
    with asking(catalog, row.repository, keys) as ask:
        listed = ask(ReadPoint(repository=entry.path, sid=row.sid), PointList).points
    if len(listed) != 1 or listed[0].sid != row.sid:
        raise PointNotAuthentic(point=row.sid)
    return open_point(listed[0], repository_keys(catalog, entry))


def stored_points(catalog: Catalog, repository: str, ask: Ask) -> Listed:
    """All points that a repository has, as the catalogue's rows; nothing is changed.

    What only the catalogue knows of a point (its session, what it stored, that it is damaged or verified) is taken
    from there; what protects it, and which points a later audit made suspect, from the repository.
    """
    entry = catalog.repositories.get(repository)
    secrets = repository_keys(catalog, entry)
    known = {row.sid: row for row in catalog.points.list(repository=repository, limit=1 << 30)}
    known |= {row.sid: row for row in catalog.points.list(repository=repository, limit=1 << 30, pruned=True)}
    rows, found, refused = [], [], []
    for page in _pages(ask, entry.path):
        retained = {each.sid: each for each in page.retained}
        for stored in page.points:
            try:
                point = open_point(stored, secrets)
            except (PointNotAuthentic, FormatUnsupported):
                refused.append(str(stored.sid))
                continue
            row = known.get(point.sid) or row_of_point(repository, point)
            found.append(point)
            rows.append(_protected(row, retained.get(point.sid, RetainedPoint(sid=point.sid))))
    doubted = doubted_by_audits(found)
    return Listed(tuple(_doubted(row) if row.sid in doubted else row for row in rows), tuple(refused))


def authentic_points(catalog: Catalog, repository: str, ask: Ask, hidden: bool = False) -> Authentic:
    """All points of a repository, whole; ``hidden``: those instead that were pruned. Raises what the channel raises."""
    entry = catalog.repositories.get(repository)
    secrets = repository_keys(catalog, entry)
    points, refused = [], []
    for page in _pages(ask, entry.path, hidden):
        for stored in page.points:
            try:
                points.append(open_point(stored, secrets))
            except (PointNotAuthentic, FormatUnsupported):
                refused.append(str(stored.sid))
    return Authentic(tuple(points), tuple(refused))


def rescan(catalog: Catalog, repository: str, ask: Ask, now: float) -> Listed:
    """Make the catalogue's points of a repository those that it has; the rows of a lost catalogue come back.

    Pruned points, which a repository does not list, are remembered for as long as they can be given back.
    """
    before = catalog.points.last_arrival(repository)
    listed = stored_points(catalog, repository, ask)
    found = {row.sid for row in listed.rows}
    pruned = catalog.points.list(repository=repository, limit=1 << 30, pruned=True)
    pruned = tuple(row for row in pruned if row.sid not in found and (row.undo_until or 0) > now)
    catalog.points.replace_all(repository, (*listed.rows, *pruned), before)
    return listed


def give_back(catalog: Catalog, repository: str, sid: Sid, ask: Ask) -> PointEntryRow:
    """Undo the pruning of a point, and remember it again. Raises ``UndoWindowOver`` when the collector has it."""
    entry = catalog.repositories.get(repository)
    known = {row.sid: row for row in catalog.points.list(repository=repository, limit=1 << 30, pruned=True)}
    try:
        page = ask(UndoTombstone(repository=entry.path, sid=sid), PointList)
    except UndoWindowOver:
        catalog.points.remove(sid)
        raise
    point = open_point(page.points[0], repository_keys(catalog, entry))
    retained = next(iter(page.retained), RetainedPoint(sid=sid))
    row = _protected(known.get(sid) or row_of_point(repository, point), retained)
    catalog.points.add(row)
    return row


def _pages(ask: Ask, path: str, hidden: bool = False) -> Iterator[PointList]:
    after, more = "", True
    while more:
        page = ask(ListPoints(repository=path, after=after, hidden=hidden), PointList)
        yield page
        # an agent that says "more" with an empty page would keep us here for ever
        more = page.more and bool(page.points) and page.points[-1].sid > after
        after = page.points[-1].sid if page.points else after


def _doubted(row: PointEntryRow) -> PointEntryRow:
    reason = row.doubt or "a later audit found that change tracking had missed changes"
    return msgspec.structs.replace(row, state=PointState.SUSPECT, doubt=reason)


def _protected(row: PointEntryRow, retained: RetainedPoint) -> PointEntryRow:
    return msgspec.structs.replace(row, held=retained.hold, retained_until=retained.until, undo_until=None)
