"""What reports over everything are made of: a few queries, each over a whole table or a window of time."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from sqlalchemy import case, func, select

from holdfast_agent.model.stats import TransferCounters

from .again import runs_again
from .database import Database
from .rows import columns_of, from_row
from .tables import points, sessions, tasks
from .values import PointState, SessionEntry

_SESSION = columns_of(sessions, SessionEntry)


class VmPoints(msgspec.Struct, frozen=True, kw_only=True):
    """The points of one VM, in all repositories. ``last_good``: when the newest that is not suspect was made."""

    server: str
    vm_id: str
    vm_name: str
    count: int
    suspect: int
    last_good: float | None


class Stored(msgspec.Struct, frozen=True):
    """A point that is there: where, since when, and what its repository appended for it."""

    repository: str
    created: float
    stored_bytes: int


class Totals(msgspec.Struct, frozen=True):
    """All points of one repository that are there: how many, bytes of their disks, and what was appended for them."""

    repository: str
    points: int = 0
    size_bytes: int = 0
    stored_bytes: int = 0


class Worked(msgspec.Struct, frozen=True):
    """A task of a session of a job."""

    job: str
    counters: TransferCounters
    queue_wait_s: float


@runs_again
class Overview:
    """Reads only. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def vms(self) -> tuple[VmPoints, ...]:
        """All VMs that have points, by server and name."""
        good = case((points.c.state == PointState.OK.value, points.c.created))
        query = (
            select(
                points.c.server,
                points.c.vm_id,
                func.max(points.c.vm_name).label("vm_name"),
                func.count().label("count"),
                (func.count() - func.count(good)).label("suspect"),
                func.max(good).label("last_good"),
            )
            .where(points.c.undo_until.is_(None))
            .group_by(points.c.server, points.c.vm_id)
            .order_by(points.c.server, func.max(points.c.vm_name), points.c.vm_id)
        )
        with self._database.reading() as connection:
            return tuple(from_row(row, VmPoints) for row in connection.execute(query))

    def stored(self) -> tuple[Stored, ...]:
        """All points that are there, the oldest first."""
        query = select(points.c.repository, points.c.created, points.c.stored_bytes)
        with self._database.reading() as connection:
            rows = connection.execute(query.where(points.c.undo_until.is_(None)).order_by(points.c.created))
            return tuple(Stored(*row) for row in rows)

    def totals(self) -> tuple[Totals, ...]:
        """Of the repositories that have points, by name."""
        sums = (func.count(), func.sum(points.c.size_bytes), func.sum(points.c.stored_bytes))
        query = select(points.c.repository, *sums).where(points.c.undo_until.is_(None))
        with self._database.reading() as connection:
            rows = connection.execute(query.group_by(points.c.repository).order_by(points.c.repository))
            return tuple(Totals(name, int(count), int(size), int(stored)) for name, count, size, stored in rows)

    def sessions(self, since: float) -> tuple[SessionEntry, ...]:
        """Those that were begun since then, the newest first."""
        found: list[SessionEntry] = []
        for entry in self._newest_first():
            if entry.created < since:
                break
            found.append(entry)
        return tuple(found)

    def worked(self, since: float) -> tuple[Worked, ...]:
        """The tasks of sessions of jobs that were begun since then."""
        query = select(sessions.c.job, tasks.c.counters, tasks.c.queue_wait_s).join(tasks)
        with self._database.reading() as connection:
            rows = connection.execute(query.where(sessions.c.job != "", sessions.c.created >= since))
            return tuple(Worked(job, msgspec.convert(told, TransferCounters), waited) for job, told, waited in rows)

    def _newest_first(self) -> Iterator[SessionEntry]:
        with self._database.reading() as connection:
            for row in connection.execute(select(*_SESSION).order_by(sessions.c.id.desc())):
                yield from_row(row, SessionEntry)
