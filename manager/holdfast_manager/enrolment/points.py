"""Restore points as their repositories have them: read whole, authenticated, and brought into the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import ControlClient
from holdfast_agent.errors import FormatUnsupported, PointNotAuthentic
from holdfast_agent.model.points import Point, PointEntry
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import ListPoints, PointList, ReadPoint
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import PointEntryRow
from holdfast_manager.sessions.keys import repository_keys

from .agents import connected
from .repositories import expect


def read_point(catalog: Catalog, row: PointEntryRow, keys: KeyPair) -> Point:
    """The whole point behind a row of the catalogue, as its repository has it and authenticated.

    Raises ``PointNotAuthentic``, ``PointNotFound`` when the repository has it no more, and what the channel raises.
    """
    entry = catalog.repositories.get(row.repository)
    agent = catalog.agents.get(entry.agent)
    with connected(agent.endpoint, agent.public_key, keys) as client:
        listed = expect(client.call(ReadPoint(repository=entry.path, sid=row.sid)), PointList).points
    if len(listed) != 1 or listed[0].sid != row.sid:
        raise PointNotAuthentic(point=row.sid)
    return open_point(listed[0], repository_keys(catalog, entry))


def rescan(catalog: Catalog, name: str, keys: KeyPair) -> tuple[int, tuple[str, ...]]:
    """Make the catalogue's points of a repository those that the repository has.

    What the catalogue knew of a point (its session, what it stored, that it is suspect) is kept. Returns how many
    points there are, and the ids of those that are not authentic or too new: they are left out.
    """
    entry = catalog.repositories.get(name)
    agent = catalog.agents.get(entry.agent)
    secrets = repository_keys(catalog, entry)
    known = {row.sid: row for row in catalog.points.list(repository=name, limit=1 << 30)}
    rows, refused = [], []
    with connected(agent.endpoint, agent.public_key, keys) as client:
        for stored in _pages(client, entry.path):
            try:
                point = open_point(stored, secrets)
            except (PointNotAuthentic, FormatUnsupported):
                refused.append(str(stored.sid))
                continue
            rows.append(known.get(point.sid) or _row(name, point))
    catalog.points.replace_all(name, rows)
    return len(rows), tuple(refused)


def _pages(client: ControlClient, path: str) -> Iterator[PointEntry]:
    after, more = "", True
    while more:
        page = expect(client.call(ListPoints(repository=path, after=after)), PointList)
        yield from page.points
        # an agent that says "more" with an empty page would keep us here for ever
        more = page.more and bool(page.points) and page.points[-1].sid > after
        after = page.points[-1].sid if page.points else after


def _row(repository: str, point: Point) -> PointEntryRow:
    return PointEntryRow(
        sid=point.sid,
        repository=repository,
        server=point.server,
        job=point.job,
        vm_id=point.vm_id,
        vm_name=point.vm_name,
        created=point.created,
        size_bytes=sum(disk.size_bytes for disk in point.disks),
        consistency=point.consistency,
    )
