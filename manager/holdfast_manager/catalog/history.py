"""Forgetting old history: sessions with their tasks and events, in small steps beside whatever else is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.sql import ColumnElement

from ..settings import HistorySettings
from .again import runs_again
from .database import Database
from .tables import events, job_runs, jobs, obligations, sessions
from .values import SessionKind, SessionState

_SESSIONS_AT_ONCE = 200
_EVENTS_AT_ONCE = 2000
"""So many rows go within some hundredths of a second; other writers wait no longer."""

_SERVING = (SessionKind.EXPORT, SessionKind.INSTANT)


class Forgotten(msgspec.Struct, frozen=True):
    """What a step, or all of them, removed."""

    sessions: int = 0
    events: int = 0

    def __add__(self, other: Forgotten) -> Forgotten:
        return Forgotten(self.sessions + other.sessions, self.events + other.events)


@runs_again
class History:
    """What may be forgotten of the tables of sessions, tasks and events. Thread-safe.

    Never forgotten are sessions that have not ended or left obligations open, the newest ended one of each job, those
    with which a schedule is not done, and exports that may have been kept. Restore points outlive their sessions.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def prune(self, limits: HistorySettings) -> Iterator[Forgotten]:
        """Forget what is older, or more, than ``limits`` says. Each step is a short transaction of its own.

        May be left in the middle and begun anew at any time, also by several processes at once. Raises what
        ``Catalog`` does.
        """
        for page in self._pages(self._old(limits)):
            yield from self._empty(page)
            yield self._forget(page)
        for page in self._pages(self._stale(limits)):
            yield from self._empty(page)

    def due(self, limits: HistorySettings) -> Forgotten:
        """What ``prune`` would remove now."""
        old = [number for page in self._pages(self._old(limits)) for number in page]
        stale = [number for page in self._pages(self._stale(limits)) for number in page]
        return Forgotten(len(old), sum(self._count_events(page) for page in _paged(sorted({*old, *stale}))))

    def known(self, numbers: Sequence[int]) -> frozenset[int]:
        """Which of these sessions there are."""
        found: set[int] = set()
        with self._database.reading() as connection:
            for page in _paged(numbers):
                found.update(connection.scalars(select(sessions.c.id).where(sessions.c.id.in_(page))))
        return frozenset(found)

    def _old(self, limits: HistorySettings) -> Select[Any]:
        """Sessions that may be forgotten altogether."""
        last_kept = select(sessions.c.id).order_by(sessions.c.id.desc()).offset(limits.sessions - 1).limit(1)
        too_old = sessions.c.ended < self._clock() - limits.keep_s
        return _ended().where(or_(too_old, sessions.c.id < last_kept.scalar_subquery()), *_of_no_use())

    def _stale(self, limits: HistorySettings) -> Select[Any]:
        """Sessions with events that may be forgotten."""
        has_events = select(events.c.id).where(events.c.session == sessions.c.id).exists()
        return _ended().where(sessions.c.ended < self._clock() - limits.events_s, has_events, *_of_no_use())

    def _pages(self, query: Select[Any]) -> Iterator[list[int]]:
        """The numbers that ``query`` finds, the oldest first, but for kept exports."""
        after = 0
        while True:
            with self._database.reading() as connection:
                found = connection.execute(query.where(sessions.c.id > after).limit(_SESSIONS_AT_ONCE)).all()
            if not found:
                return
            after = found[-1].id
            yield [each.id for each in found if not (each.kind in _SERVING and each.spec.get("keep"))]

    def _empty(self, numbers: Sequence[int]) -> Iterator[Forgotten]:
        """Remove the events of sessions: one may have more of them than should go in one transaction."""
        some = select(events.c.id).where(events.c.session.in_(numbers)).limit(_EVENTS_AT_ONCE)
        while True:
            with self._database.writing() as connection:
                gone = connection.execute(events.delete().where(events.c.id.in_(some))).rowcount
            if gone:
                yield Forgotten(events=gone)
            if gone < _EVENTS_AT_ONCE:
                return

    def _forget(self, numbers: Sequence[int]) -> Forgotten:
        with self._database.writing() as connection:
            return Forgotten(connection.execute(sessions.delete().where(sessions.c.id.in_(numbers))).rowcount)

    def _count_events(self, numbers: Sequence[int]) -> int:
        query = select(func.count()).select_from(events).where(events.c.session.in_(numbers))
        with self._database.reading() as connection:
            return connection.scalar(query) or 0


def _ended() -> Select[Any]:
    columns = (sessions.c.id, sessions.c.kind, sessions.c.spec)
    return select(*columns).where(sessions.c.state == SessionState.ENDED.value).order_by(sessions.c.id)


def _of_no_use() -> tuple[ColumnElement[bool], ...]:
    later = sessions.alias("later")
    newer = select(later.c.id).where(
        later.c.job == sessions.c.job, later.c.id > sessions.c.id, later.c.ended.is_not(None)
    )
    has_job = select(jobs.c.name).where(jobs.c.name == sessions.c.job)
    owed = select(obligations.c.id).where(obligations.c.session == sessions.c.id)
    awaited = select(job_runs.c.name).where(
        or_(job_runs.c.session == sessions.c.id, job_runs.c.failed == sessions.c.id)
    )
    return ~and_(has_job.exists(), ~newer.exists()), ~owed.exists(), ~awaited.exists()


def _paged(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start : start + _SESSIONS_AT_ONCE] for start in range(0, len(numbers), _SESSIONS_AT_ONCE))
