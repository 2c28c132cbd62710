"""Restore points as their repositories have them: read whole, authenticated, and brought into the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import ControlClient
from holdfast_agent.errors import FormatUnsupported, NotFound, PointNotAuthentic, WrongKey
from holdfast_agent.model.points import Point, PointEntry
from holdfast_agent.sealing.keys import PUBLIC, MasterKey, RepositoryKeys
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import ListPoints, PointList
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import PointEntryRow, RepositoryEntry

from .agents import connected
from .repositories import expect


def keys_of(catalog: Catalog, entry: RepositoryEntry) -> RepositoryKeys:
    """All keys of a repository, from the master key in the catalogue. Raises :class:`WrongKey` where none is kept."""
    master = catalog.repositories.master_key(entry.name)
    if entry.encrypted and master is None:
        raise WrongKey(name=f"the repository {entry.name!r}", reason="no key of it is kept here")
    return RepositoryKeys.derive(PUBLIC if master is None else MasterKey(master), entry.repository_id)


def read_point(catalog: Catalog, row: PointEntryRow, keys: KeyPair) -> Point:
    """The whole point behind a row of the catalogue, as its repository has it and authenticated.

    Raises ``PointNotAuthentic``, ``NotFound`` when the repository has it no more, and what the channel raises.
    """
    entry = catalog.repositories.get(row.repository)
    agent = catalog.agents.get(entry.agent)
    before = f"{max(int(row.sid, 16) - 1, 0):032x}"  # the page after it begins with the point, if it is there
    with connected(agent.endpoint, agent.public_key, keys) as client:
        reply = client.call(ListPoints(repository=entry.path, after=before, limit=1))
    found = [point for point in expect(reply, PointList).points if point.sid == row.sid]
    if not found:
        advice = f"The repository {entry.name!r} does not have it; `holdfast repository rescan {entry.name}` tidies up"
        raise NotFound(kind="restore point", name=row.sid, advice=advice)
    return open_point(found[0], keys_of(catalog, entry))


def rescan(catalog: Catalog, name: str, keys: KeyPair) -> tuple[int, tuple[str, ...]]:
    """Make the catalogue's points of a repository those that the repository has.

    What the catalogue knew of a point (its session, what it stored, that it is suspect) is kept. Returns how many
    points there are, and the ids of those that are not authentic or too new: they are left out.
    """
    entry = catalog.repositories.get(name)
    agent = catalog.agents.get(entry.agent)
    repository_keys = keys_of(catalog, entry)
    known = {row.sid: row for row in catalog.points.list(repository=name, limit=1 << 30)}
    rows, refused = [], []
    with connected(agent.endpoint, agent.public_key, keys) as client:
        for stored in _pages(client, entry.path):
            try:
                point = open_point(stored, repository_keys)
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
