"""What the service remembers of jobs, and all that it needs to know of them at one look."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection, Text, cast, delete, func, insert, select

from holdfast_agent.errors import Locked

from .again import runs_again
from .database import Database
from .rows import columns_of, to_row
from .sessions import Claim
from .tables import job_runs, jobs, repositories, sessions
from .values import LastSession, RunState, SessionResult

_STATE = columns_of(job_runs, RunState)
_NOTHING = RunState()
Change = tuple[RunState, RunState]
"""What a state was, and what it becomes."""


class JobFacts(msgspec.Struct, frozen=True):
    """A job at one moment. ``spec`` is its specification as JSON text, to be compared before it is read.

    ``last``: its newest session, living or not. ``ended``: its newest session that has ended. ``arrivals``: the
    number of the newest point of what it copies from.
    """

    name: str
    spec: str
    state: RunState
    last: LastSession | None
    ended: LastSession | None
    arrivals: int = 0


@runs_again
class JobRuns:
    """The table of runs. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look(self) -> tuple[JobFacts, ...]:
        """All jobs, by name, and their sessions, as they are at one moment."""
        last, ended = sessions.alias("last"), sessions.alias("ended_one")
        # The newest by order and limit: a maximum would read all sessions of the job, where the index gives the first.
        # To ask for kind or state would lead SQLite to the index of that.
        of_job = select(sessions.c.id).where(sessions.c.job == jobs.c.name).order_by(sessions.c.id.desc()).limit(1)
        newest = of_job.scalar_subquery()
        over = of_job.where(sessions.c.ended.is_not(None)).scalar_subquery()
        facts = [
            column.label(f"{name}_{column.name}")
            for name, table in (("last", last), ("ended", ended))
            for column in (table.c.id, table.c.ended, table.c.result)
        ]
        places = jobs.outerjoin(job_runs, job_runs.c.name == jobs.c.name)
        places = places.outerjoin(last, last.c.id == newest).outerjoin(ended, ended.c.id == over)
        source = (repositories.c.name == jobs.c.origin) | (repositories.c.member_of == jobs.c.origin)
        newest_of = select(func.max(repositories.c.arrivals)).where(jobs.c.origin.is_not(None), source)
        arrivals = func.coalesce(newest_of.scalar_subquery(), 0)
        columns = (jobs.c.name, cast(jobs.c.spec, Text), *_STATE, *facts, arrivals)
        query = select(*columns).select_from(places).order_by(jobs.c.name)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        width = 2 + len(_STATE)
        return tuple(
            JobFacts(
                row[0],
                row[1],
                _state(row[2:width]),
                _session(row[width : width + 3]),
                _session(row[width + 3 : width + 6]),
                row[-1],
            )
            for row in rows
        )

    def save(self, changes: Mapping[str, Change]) -> frozenset[str]:
        """Replace states of jobs where they are still what they were; returns of which jobs: those that are there."""
        saved = set()
        with self._database.writing() as connection:
            for job, (before, after) in changes.items():
                if _exists(connection, job) and _stored(connection, job) == before:
                    _put(connection, job, after)
                    saved.add(job)
        return frozenset(saved)

    @staticmethod
    def claim(job: str, before: RunState, after: RunState) -> Claim:
        """For ``Sessions.begin_job``: the new session is remembered in ``after`` if the state is still ``before``.

        So a start is dealt with by one service once, and never without being remembered. Raises ``Locked``.
        """

        def do(connection: Connection, session: int) -> None:
            if _stored(connection, job) != before:
                raise Locked(what=f"the schedule of job {job!r}", holder="another service")
            _put(connection, job, msgspec.structs.replace(after, session=session))

        return do


def _exists(connection: Connection, job: str) -> bool:
    return connection.scalar(select(jobs.c.name).where(jobs.c.name == job)) is not None


def _stored(connection: Connection, job: str) -> RunState:
    row = connection.execute(select(*_STATE).where(job_runs.c.name == job)).first()
    return _NOTHING if row is None else _state(tuple(row))


def _put(connection: Connection, job: str, state: RunState) -> None:
    connection.execute(delete(job_runs).where(job_runs.c.name == job))
    if state != _NOTHING:
        connection.execute(insert(job_runs).values(name=job, **to_row(state)))


def _state(values: tuple[object, ...]) -> RunState:
    if values[0] is None:
        return _NOTHING
    return msgspec.convert(dict(zip((str(column.name) for column in _STATE), values, strict=True)), RunState)


def _session(values: tuple[object, ...]) -> LastSession | None:
    number, ended, result = values
    if not isinstance(number, int):
        return None
    return LastSession(number, ended if isinstance(ended, float) else None, SessionResult(str(result)))
