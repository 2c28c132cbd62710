"""What the catalogue remembers of restore points, so that lists need no agent. The repositories have the truth."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, func, select

from holdfast_agent.errors import NotFound, UsageError
from holdfast_agent.model.ids import Sid

from .again import runs_again
from .database import Database
from .rows import columns_of, from_row, require, to_row
from .tables import job_runs, pending_points, points, repositories
from .values import BootRecord, PointEntryRow, PointScope, PointState

_COLUMNS = columns_of(points, PointEntryRow)


@runs_again
class Points:
    """The table of restore points. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entry: PointEntryRow) -> None:
        """Remember a committed point. Idempotent: what is remembered of the same sid is replaced."""
        with self._database.writing() as connection:
            require(connection, repositories, "repository", entry.repository)
            known = _arrivals(connection, points.c.sid == entry.sid)
            connection.execute(points.delete().where(points.c.sid == entry.sid))
            _put(connection, entry.repository, (entry,), known)

    def get(self, sid: str, pruned: bool = False) -> PointEntryRow:
        """The point whose id begins with ``sid`` (at least 4 digits); ``pruned``: of those that can be given back.

        Raises ``NotFound`` or ``UsageError``.
        """
        if len(sid) < 4 or not sid.isalnum():
            raise UsageError(reason=f"{sid!r} is not a restore point id; give at least its first 4 digits")
        query = select(*_COLUMNS).where(points.c.sid >= sid, points.c.sid < sid + "g").order_by(points.c.sid).limit(2)
        query = query.where(_is_pruned(pruned))
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        if not rows:
            raise NotFound(kind="restore point", name=sid, advice="`holdfast point list` shows them")
        if len(rows) > 1:
            raise UsageError(reason=f"several restore points begin with {sid!r}; give more digits")
        return from_row(rows[0], PointEntryRow)

    def list(
        self,
        repository: str | None = None,
        job: str | None = None,
        vm_name: str | None = None,
        before: float | None = None,
        limit: int = 100,
        pruned: bool = False,
        within: Collection[str] | None = None,
    ) -> tuple[PointEntryRow, ...]:
        """The newest points first, at most ``limit``; the next page begins ``before`` the last creation time.

        ``within``: in any of these repositories. ``pruned``: those instead that are pruned and may still be given back.
        """
        query = select(*_COLUMNS).order_by(points.c.created.desc(), points.c.sid).limit(limit)
        query = query.where(_is_pruned(pruned))
        wanted = {"repository": repository, "job": job, "vm_name": vm_name}
        for column, value in wanted.items():
            query = query if value is None else query.where(points.c[column] == value)
        if within is not None:
            query = query.where(points.c.repository.in_(within))
        if before is not None:
            query = query.where(points.c.created < before)
        with self._database.reading() as connection:
            return tuple(from_row(row, PointEntryRow) for row in connection.execute(query))

    def vms_of_session(self, session: int) -> frozenset[str]:
        """The ids of the VMs of which a session made points, pruned since or not."""
        with self._database.reading() as connection:
            return frozenset(connection.scalars(select(points.c.vm_id).where(points.c.session == session)))

    def history(self, repository: str, server: str | None, vm_id: str) -> tuple[PointEntryRow, ...]:
        """All points of a VM in a repository, the newest first; suspect ones and pruned ones too.

        ``server``: where it was then; None for any.
        """
        query = select(*_COLUMNS).where(points.c.repository == repository, points.c.vm_id == vm_id)
        if server is not None:
            query = query.where(points.c.server == server)
        query = query.order_by(points.c.created.desc())
        with self._database.reading() as connection:
            return tuple(from_row(row, PointEntryRow) for row in connection.execute(query))

    def of_vm(self, server: str, vm_id: str) -> tuple[PointEntryRow, ...]:
        """All points of a VM that are there, in all repositories, the newest first."""
        query = (
            select(*_COLUMNS)
            .where(points.c.server == server, points.c.vm_id == vm_id, _is_pruned(False))
            .order_by(points.c.created.desc(), points.c.sid)
        )
        with self._database.reading() as connection:
            return tuple(from_row(row, PointEntryRow) for row in connection.execute(query))

    def set_state(self, sid: Sid, state: PointState) -> None:
        """Mark a point. No effect on one that is not remembered."""
        with self._database.writing() as connection:
            connection.execute(points.update().where(points.c.sid == sid).values(state=state.value))

    def cast_doubt(self, sid: Sid, reason: str) -> None:
        """An audit made a point suspect for good. No effect on one that is not remembered."""
        with self._database.writing() as connection:
            changed = {"state": PointState.SUSPECT.value, "doubt": reason}
            connection.execute(points.update().where(points.c.sid == sid).values(**changed))

    def clear(self, sid: Sid) -> None:
        """What made a point suspect is mended. No effect on one in doubt: whole blocks may be the wrong ones."""
        with self._database.writing() as connection:
            whole = (points.c.sid == sid) & (points.c.doubt == "")
            connection.execute(points.update().where(whole).values(state=PointState.OK.value))

    def set_verified(self, sid: Sid, at: float) -> None:
        """Every block of a point was read and found right. No effect on one that is not remembered."""
        self._change(sid, verified=at)

    def set_boot(self, sid: Sid, record: BootRecord) -> None:
        """A boot proof ended. No effect on a point that is not remembered."""
        changed: dict[str, Any] = {"boot": msgspec.to_builtins(record)}
        if record.proved:
            changed["booted"] = record.at
        with self._database.writing() as connection:
            connection.execute(points.update().where(points.c.sid == sid).values(**changed))

    def of_session(self, session: int) -> tuple[PointEntryRow, ...]:
        """The points that a session made and that are there, oldest first."""
        query = select(*_COLUMNS).where(points.c.session == session, _is_pruned(False)).order_by(points.c.created)
        with self._database.reading() as connection:
            return tuple(from_row(row, PointEntryRow) for row in connection.execute(query))

    def set_retention(self, sid: Sid, until: float, held: bool) -> None:
        """What protects a point now, as its repository said."""
        self._change(sid, retained_until=until, held=held)

    def set_pruned(self, sid: Sid, undo_until: float | None) -> None:
        """A point was pruned, or given back (None)."""
        self._change(sid, undo_until=undo_until)

    def forget_pruned(self, repository: str, before: float) -> None:
        """Forget pruned points that could be given back until ``before`` at the latest."""
        lost = (points.c.repository == repository) & (points.c.undo_until < before)
        with self._database.writing() as connection:
            connection.execute(points.delete().where(lost))

    def _change(self, sid: Sid, **values: float | bool | None) -> None:
        with self._database.writing() as connection:
            connection.execute(points.update().where(points.c.sid == sid).values(**values))

    def remove(self, sid: Sid) -> None:
        """Forget a point. Idempotent."""
        with self._database.writing() as connection:
            connection.execute(points.delete().where(points.c.sid == sid))

    def last_arrival(self, repository: str) -> int:
        """The number of the point that came to be known last, of any repository. Raises ``NotFound`` for this one."""
        with self._database.reading() as connection:
            require(connection, repositories, "repository", repository)
            return _last_arrival(connection)

    def replace_all(self, repository: str, entries: Sequence[PointEntryRow], before: int) -> None:
        """After a rescan: ``entries`` are all points of ``repository``; others of it are forgotten.

        ``before``: :meth:`last_arrival` when it began. What sessions have remembered since then stays as it is.
        """
        with self._database.writing() as connection:
            require(connection, repositories, "repository", repository)
            old = points.c.arrival <= before
            known, newer = _arrivals(connection, old), _arrivals(connection, ~old)
            connection.execute(points.delete().where(points.c.repository == repository, old))
            for entry in entries:
                connection.execute(points.delete().where(points.c.sid == entry.sid, old))
            _put(connection, repository, [each for each in entries if each.sid not in newer], known)

    def newest_arrival(self, source: str, after: int, scope: PointScope) -> int:
        """The number of the newest point in ``scope`` that came to be known of ``source`` after that one; or 0.

        ``source``: a repository or a group. Numbers only grow, whatever clocks do and points that are pruned: how it is
        known what is new.
        """
        query = select(points.c.arrival, *_COLUMNS).order_by(points.c.arrival.desc())
        meant = (repositories.c.name == source) | (repositories.c.member_of == source)
        places = points.c.repository.in_(select(repositories.c.name).where(meant))
        query = query.where(places, points.c.arrival > after, _is_pruned(False))
        with self._database.reading() as connection:
            for row in connection.execute(query):
                if scope.covers(from_row(row, PointEntryRow)):
                    return int(row.arrival)
        return 0


def _put(connection: Connection, repository: str, entries: Sequence[PointEntryRow], known: dict[str, int]) -> None:
    """Insert points of ``repository``; those that are not ``known`` with their arrival arrive now."""
    last = _last_arrival(connection)
    for entry in entries:
        arrival = known.get(entry.sid)
        if arrival is None:
            arrival = last = last + 1
        connection.execute(points.insert().values(**to_row(entry), arrival=arrival))
    remembered = pending_points.c.sid.in_(select(points.c.sid))
    connection.execute(pending_points.delete().where(remembered))
    newest = repositories.update().where(repositories.c.name == repository, repositories.c.arrivals < last)
    if entries:
        connection.execute(newest.values(arrivals=last))


def _last_arrival(connection: Connection) -> int:
    """The highest number that any job may have dealt with: in all repositories, and of those that are gone."""
    given = connection.scalar(select(func.max(repositories.c.arrivals))) or 0
    return max(given, connection.scalar(select(func.max(job_runs.c.arrived))) or 0)


def _arrivals(connection: Connection, which: ColumnElement[bool]) -> dict[str, int]:
    return {row.sid: row.arrival for row in connection.execute(select(points.c.sid, points.c.arrival).where(which))}


def _is_pruned(pruned: bool) -> ColumnElement[bool]:
    return points.c.undo_until.is_not(None) if pruned else points.c.undo_until.is_(None)
