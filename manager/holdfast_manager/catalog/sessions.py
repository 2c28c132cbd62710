"""Sessions: who runs what, and the truth about those whose process died."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, null, select

from holdfast_agent.errors import ErrorRecord, Locked, NotFound

from .again import runs_again
from .database import Database
from .errors import InUse, SessionDied
from .notices import Notices
from .processes import ProcessIdentity, moment
from .rows import columns_of, from_row, insert, require
from .silence import TO_BEGIN_S, Doubts, is_dead
from .tables import jobs, obligations, repositories, sessions, slot_requests, slot_rounds, transfers
from .values import SessionEntry, SessionKind, SessionResult, SessionState

_COLUMNS = columns_of(sessions, SessionEntry)

Claim = Callable[[Connection, int], None]
"""Done in the transaction that begins a session, with its number; what it raises undoes both."""


@runs_again
class Sessions:
    """The table of sessions. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float], notices: Notices) -> None:
        self._database = database
        self._clock = clock
        self._notices = notices
        self._doubts = Doubts()

    def begin_job(self, job: str, spec: dict[str, Any] | None = None, claim: Claim | None = None) -> SessionEntry:
        """Write down a session of ``job``, to be adopted by its process; until then the caller answers for it.

        One session per job at a time, and of copies one into each repository: raises :class:`Locked` with the holder
        while one lives. One whose process is dead is marked failed on the way. Raises ``NotFound`` when there is no
        such job, and what ``claim`` raises.
        """
        with self._database.writing() as connection:
            require(connection, jobs, "job", job)
            copies_into = connection.execute(
                select(jobs.c.repository).where(jobs.c.name == job, jobs.c.origin.is_not(None))
            ).scalar_one_or_none()
            self._make_way(connection, (sessions.c.job == job) & sessions.c.holds.is_not(None), f"job {job!r}")
            kind, holds = SessionKind.BACKUP, job
            if copies_into is not None:
                kind, holds = SessionKind.COPY, _copies_into(connection, copies_into)
                self._make_way(connection, sessions.c.holds == holds, holds)
            begun = self._begin(connection, kind, job, spec or {}, holds=holds)
            if claim is not None:
                claim(connection, begun.id)
            return begun

    def begin_clean_up(self, server: str) -> SessionEntry:
        """Write down a session that fulfils what others left open on ``server``: one at a time, else ``Locked``."""
        holds = f"clean-up of {server}"
        with self._database.writing() as connection:
            self._make_way(connection, sessions.c.holds == holds, holds)
            return self._begin(connection, SessionKind.CLEAN_UP, "", {"server": server}, holds=holds)

    def begin_copy(self, repository: str, spec: dict[str, Any]) -> SessionEntry:
        """Write down a session that copies into ``repository``: one at a time, so that no point is copied twice.

        Raises :class:`Locked` with the holder while one lives.
        """
        with self._database.writing() as connection:
            holds = _copies_into(connection, repository)
            self._make_way(connection, sessions.c.holds == holds, holds)
            return self._begin(connection, SessionKind.COPY, "", spec, holds=holds)

    def copying_into(self, repository: str) -> int | None:
        """The session that copies into ``repository`` now, if one does: for who would rather wait than be refused."""
        with self._database.reading() as connection:
            query = select(*_COLUMNS).where(sessions.c.holds == _copies_into(connection, repository))
            row = connection.execute(query).first()
        entry = from_row(row, SessionEntry) if row is not None else None
        return None if entry is None or is_dead(entry, moment()) else entry.id

    def begin(self, kind: SessionKind, spec: dict[str, Any]) -> SessionEntry:
        """Write down a restore or verify session; any number may run at once. ``spec`` is what was asked, JSON-able."""
        with self._database.writing() as connection:
            return self._begin(connection, kind, "", spec, holds=None)

    def adopt(self, number: int) -> SessionEntry:
        """Called once by the session's own process: from now on it answers for the session, which is running.

        Raises ``NotFound``, or :class:`Locked` when the session has another living process or has ended.
        """
        me = ProcessIdentity.current()
        with self._database.writing() as connection:
            entry = _get(connection, number)
            if entry.state is SessionState.ENDED:
                raise Locked(what=f"session {number}", holder="nobody: it has ended")
            if entry.state is not SessionState.STARTING and entry.process != me and not entry.process.is_dead():
                raise Locked(what=f"session {number}", holder=str(entry.process))
            state = SessionState.STOPPING if entry.stop_requested else SessionState.RUNNING
            started = self._clock() if entry.started is None else entry.started
            _set(connection, number, process=msgspec.to_builtins(me), state=state.value, started=started, doubts=null())
            return _get(connection, number)

    def get(self, number: int) -> SessionEntry:
        """Raises ``NotFound``."""
        with self._database.reading() as connection:
            return _get(connection, number)

    def list(
        self,
        job: str | None = None,
        kind: SessionKind | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[SessionEntry, ...]:
        """The newest sessions first; the next page begins ``before`` the last number of this one."""
        with self._database.reading() as connection:
            rows = connection.execute(listing(job, kind, before, limit))
            return tuple(from_row(row, SessionEntry) for row in rows)

    def living(self) -> tuple[SessionEntry, ...]:
        """All sessions that have not ended, oldest first (call ``reap_dead`` before for the truth)."""
        with self._database.reading() as connection:
            return _living(connection)

    def request_stop(self, number: int) -> None:
        """Ask a session to stop; its process sees that at its next look. No effect on one that has ended."""
        with self._database.writing() as connection:
            entry = _get(connection, number)
            if entry.state is SessionState.ENDED:
                return
            state = SessionState.STARTING if entry.state is SessionState.STARTING else SessionState.STOPPING
            _set(connection, number, stop_requested=True, state=state.value)

    def stop_requested(self, number: int) -> bool:
        """Whether somebody asked, or has ended it in its place; cheap, for polling. Raises ``NotFound``."""
        query = select(sessions.c.stop_requested, sessions.c.state).where(sessions.c.id == number)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise _unknown(number)
        return bool(row.stop_requested) or row.state == SessionState.ENDED.value

    def stay_alive(self, number: int, patience_s: float) -> None:
        """Called by the session's process now and then: strikes out the doubts of other hosts, that give it up when
        they have heard nothing for ``patience_s``."""
        due = sessions.c.doubts.is_not(None) | sessions.c.patience_s.is_distinct_from(patience_s)
        with self._database.writing() as connection:  # (a commit that changes nothing costs no sync of the disk)
            update = sessions.update().where(sessions.c.id == number, due)
            connection.execute(update.values(patience_s=patience_s, doubts=null()))

    def end(self, number: int, result: SessionResult, error: ErrorRecord | None = None) -> SessionEntry:
        """The session is over: frees its job and its slots. Ending it again changes nothing; returns what is stored."""
        with self._database.writing() as connection:
            entry = _get(connection, number)
            if entry.state is not SessionState.ENDED:
                self._end(connection, entry, result, error)
            return _get(connection, number)

    def reap_dead(self) -> tuple[SessionEntry, ...]:
        """Mark sessions as failed whose process is gone, or has not been heard of on another host; returns them.

        Called before sessions are listed or begun. Their obligations stay open for whoever fulfils them.
        """
        now = moment()
        with self._database.reading() as connection:
            suspects = [each.id for each in _living(connection) if is_dead(each, now) or self._doubts.is_new(each, now)]
        if not suspects:
            return ()
        dead = []
        with self._database.writing() as connection:
            for entry in _living(connection):
                if entry.id in suspects and is_dead(entry, now):
                    self._bury(connection, entry)
                    dead.append(_get(connection, entry.id))
                elif entry.id in suspects and self._doubts.is_new(entry, now):
                    _set(connection, entry.id, doubts=self._doubts.written(entry, now))
        return tuple(dead)

    def remove(self, number: int) -> None:
        """Forget a session with its tasks and events; its points stay.

        Raises ``NotFound``, ``Locked`` while it has not ended, ``InUse`` while obligations of it are open.
        """
        with self._database.writing() as connection:
            entry = _get(connection, number)
            if entry.state is not SessionState.ENDED:
                raise Locked(what=f"session {number}", holder=str(entry.process))
            owed = connection.scalars(select(obligations.c.id).where(obligations.c.session == number)).all()
            if owed:
                raise InUse(kind="session", name=str(number), users=f"{len(owed)} open obligations")
            connection.execute(sessions.delete().where(sessions.c.id == number))

    def _make_way(self, connection: Connection, holding: ColumnElement[bool], what: str) -> None:
        """See that no living session holds what is asked for; one whose process is dead is marked failed."""
        holder = connection.execute(select(*_COLUMNS).where(holding)).first()
        if holder is None:
            return
        other = from_row(holder, SessionEntry)
        if not is_dead(other, moment()):
            raise Locked(what=what, holder=f"session {other.id} ({other.process})")
        self._bury(connection, other)

    def _begin(
        self, connection: Connection, kind: SessionKind, job: str, spec: dict[str, Any], holds: str | None
    ) -> SessionEntry:
        row = {
            "kind": kind.value,
            "job": job,
            "state": SessionState.STARTING.value,
            "result": SessionResult.NONE.value,
            "created": self._clock(),
            "process": msgspec.to_builtins(ProcessIdentity.current()),
            "stop_requested": False,
            "spec": msgspec.to_builtins(spec),
            "holds": holds,
            "patience_s": TO_BEGIN_S,
        }
        return _get(connection, insert(connection, sessions, row))

    def _bury(self, connection: Connection, entry: SessionEntry) -> None:
        error = SessionDied(process=str(entry.process)).to_record()
        self._end(connection, entry, SessionResult.FAILED, error)

    def _end(
        self, connection: Connection, entry: SessionEntry, result: SessionResult, error: ErrorRecord | None
    ) -> None:
        _set(
            connection,
            entry.id,
            state=SessionState.ENDED.value,
            result=result.value,
            ended=self._clock(),
            error=msgspec.to_builtins(error),
            holds=None,
        )
        for ledger in (slot_requests, transfers):
            connection.execute(ledger.delete().where(ledger.c.session == entry.id))
        connection.execute(slot_rounds.update().values(wanted=True))
        self._notices.write(connection, entry.id, entry.kind.value, entry.job, result.value)


def listing(job: str | None, kind: SessionKind | None, before: int | None, limit: int) -> Select[Any]:
    """The query of ``Sessions.list``; each form of it is served by an index."""
    query = select(*_COLUMNS).order_by(sessions.c.id.desc()).limit(limit)
    if job is not None:
        query = query.where(sessions.c.job == job)
    if kind is not None:
        query = query.where(sessions.c.kind == kind.value)
    return query if before is None else query.where(sessions.c.id < before)


def _copies_into(connection: Connection, target: str) -> str:
    """What a session holds that copies there, into any repository of a group; no job has a name with blanks."""
    group = connection.scalar(select(repositories.c.member_of).where(repositories.c.name == target))
    return f"copies into {group or target}"


def _living(connection: Connection) -> tuple[SessionEntry, ...]:
    states = [state.value for state in SessionState if state is not SessionState.ENDED]
    rows = connection.execute(select(*_COLUMNS).where(sessions.c.state.in_(states)).order_by(sessions.c.id))
    return tuple(from_row(row, SessionEntry) for row in rows)


def _get(connection: Connection, number: int) -> SessionEntry:
    row = connection.execute(select(*_COLUMNS).where(sessions.c.id == number)).first()
    if row is None:
        raise _unknown(number)
    return from_row(row, SessionEntry)


def _set(connection: Connection, number: int, **values: Any) -> None:
    connection.execute(sessions.update().where(sessions.c.id == number).values(**values))


def _unknown(number: int) -> NotFound:
    return NotFound(kind="session", name=str(number), advice="`holdfast session list` shows them")
