"""Jobs."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, select

from holdfast_agent.errors import AlreadyExists, ConfigInvalid, Locked

from ..schedules.schedule import loop_of
from .again import runs_again
from .database import Database
from .errors import InUse
from .groups import require_target
from .rows import checked, require
from .tables import agents, jobs, repositories, servers, sessions
from .values import JobSpec

_KIND = "job"


@runs_again
class Jobs:
    """The table of jobs. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, spec: JobSpec) -> None:
        """Raises ``AlreadyExists``, ``NotFound`` (of what it names: server, repository, …) or ``ConfigInvalid``."""
        with self._database.writing() as connection:
            row = _row(connection, spec)
            if connection.execute(select(jobs.c.name).where(jobs.c.name == spec.name)).first() is not None:
                raise AlreadyExists(kind=_KIND, name=spec.name)
            connection.execute(jobs.insert().values(row))

    def get(self, name: str) -> JobSpec:
        """Raises ``NotFound`` with the nearest name."""
        with self._database.reading() as connection:
            require(connection, jobs, _KIND, name)
            return _spec(connection.execute(select(jobs.c.spec).where(jobs.c.name == name)).scalar_one())

    def list(self) -> tuple[JobSpec, ...]:
        """All jobs, by name."""
        with self._database.reading() as connection:
            return tuple(_spec(table) for table in connection.scalars(select(jobs.c.spec).order_by(jobs.c.name)))

    def update(self, spec: JobSpec) -> None:
        """Replace everything but the name; a running session keeps what it started with. Raises as ``add`` does."""
        with self._database.writing() as connection:
            require(connection, jobs, _KIND, spec.name)
            row = _row(connection, spec)
            connection.execute(jobs.update().where(jobs.c.name == spec.name).values(row))

    def remove(self, name: str) -> None:
        """Remove a job; its sessions and points stay.

        Raises ``NotFound``, ``Locked`` while it runs, or ``InUse`` with the jobs that come after it.
        """
        with self._database.writing() as connection:
            require(connection, jobs, _KIND, name)
            running = connection.scalar(
                select(sessions.c.id).where(sessions.c.job == name, sessions.c.holds.is_not(None))
            )
            if running is not None:
                raise Locked(what=f"job {name!r}", holder=f"session {running}")
            following = [other for other, before in _chains(connection).items() if before == name]
            if following:
                raise InUse(kind=_KIND, name=name, users=", ".join(f"job {other}" for other in sorted(following)))
            connection.execute(jobs.delete().where(jobs.c.name == name))


def _row(connection: Connection, spec: JobSpec) -> dict[str, Any]:
    checked(spec, f"job {spec.name!r}")
    if spec.server is not None:
        require(connection, servers, "server", spec.server)
    require_target(connection, spec.repository)
    origin = spec.copy.origin if spec.copy is not None else None
    if origin is not None:
        require_target(connection, origin)
        _require_apart(connection, spec, origin)
    for proxy in spec.proxies:
        require(connection, agents, "agent", proxy)
    if spec.schedule is not None and spec.schedule.after:
        require(connection, jobs, _KIND, spec.schedule.after)
        loop = loop_of(spec.name, {**_chains(connection), spec.name: spec.schedule.after})
        if loop:
            reason = f"each would wait for the one before: {' after '.join(loop)}"
            raise ConfigInvalid(file=f"job {spec.name!r}", key="schedule.after", reason=reason)
    table = msgspec.to_builtins(spec)
    places = {"server": spec.server, "repository": spec.repository, "origin": origin}
    return {"name": spec.name, **places, "spec": table}


def _require_apart(connection: Connection, spec: JobSpec, origin: str) -> None:
    """A copy within a group would only move points to and fro."""
    query = select(repositories.c.name, repositories.c.member_of)
    groups = {row.name: row.member_of or row.name for row in connection.execute(query)}
    if groups.get(origin, origin) == groups.get(spec.repository, spec.repository):
        reason = f"{origin} and {spec.repository} are of one group: copies there would protect against nothing"
        raise ConfigInvalid(file=f"job {spec.name!r}", key="copy.from", reason=reason)


def _spec(table: dict[str, Any]) -> JobSpec:
    return msgspec.convert(table, JobSpec)


def _chains(connection: Connection) -> dict[str, str]:
    """Which job each comes after, of those that come after one."""
    tables = connection.scalars(select(jobs.c.spec)).all()
    chained = [table for table in tables if (table.get("schedule") or {}).get("after")]
    return {str(table["name"]): str(table["schedule"]["after"]) for table in chained}
