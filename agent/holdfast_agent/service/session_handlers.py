"""Handlers of write sessions: begun under a lease, ended by one commit or abort, abandoned with the lease."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import (
    AlreadyExists,
    HoldfastError,
    LeaseUnknown,
    Locked,
    PointNotFound,
    SessionUnknown,
    UsageError,
)
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import PointEntry
from holdfast_agent.wire.messages import AbortSession, BeginSession, BlobStored, CommitSession, Done, StoreBlob

from .agent import Agent
from .calls import Call
from .immutable_points import mark_immutable
from .repositories import allowed_repository, opened
from .retention_handlers import check_until
from .sessions import HeldLock, WriteSession, check_mover_number

if TYPE_CHECKING:
    from holdfast_agent.repository.repository import Repository

_BLOB_BYTES = 4 << 20


def begin_session(agent: Agent, call: Call[BeginSession]) -> None:
    """The lease may end while the session is being opened; then it is aborted at once."""
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    real = str(allowed_repository(agent.settings, request.repository))
    if (real, request.sid) in lease.sessions:
        call.reply(Done())  # asked twice
        return

    def work() -> HeldLock:
        with opened(agent.settings, request.repository) as repository:
            return repository.begin_session(request.sid)

    def began(outcome: HeldLock | HoldfastError) -> None:
        if isinstance(outcome, HoldfastError):
            call.fail(outcome)
            return
        session = WriteSession(real, request.sid, outcome)
        if lease.closed:
            abandon_session(agent, session, lambda: call.fail(LeaseUnknown(lease=lease.name)))
        else:
            lease.sessions[real, request.sid] = session
            call.reply(Done())

    agent.repository_work.run(work, began)


def store_blob(agent: Agent, call: Call[StoreBlob]) -> None:
    request = call.request
    if len(request.record) > _BLOB_BYTES:
        raise UsageError(reason=f"a blob has at most {_BLOB_BYTES} bytes")
    check_mover_number(request.mover)
    _session(agent, call, request.repository, request.sid)

    def work() -> BlobStored:
        from holdfast_agent.repository.writer import store_blob

        with opened(agent.settings, request.repository) as repository:
            return BlobStored(packs=tuple(store_blob(repository, request.sid, request.mover, request.record)))

    agent.repository_work.run(work, call.settle)


def commit_session(agent: Agent, call: Call[CommitSession]) -> None:
    """For a session that this lease has not (any more), the repository is only asked what became of it."""
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    real = str(allowed_repository(agent.settings, request.repository))
    session = lease.sessions.get((real, request.entry.sid))
    if session is None:
        agent.repository_work.run(lambda: _committed_before(agent.settings, request), call.settle)
        return

    def work() -> Done:
        with opened(agent.settings, request.repository) as repository:
            check_until(repository, request.retain_until)
            repository.commit(request.entry, request.packs, request.retain_until)
        return Done()

    def committed() -> None:
        if request.retain_until:
            mark_immutable(agent, request.repository, request.entry.sid)

    _end_session(agent, call, session, work, committed)


def abort_session(agent: Agent, call: Call[AbortSession]) -> None:
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    real = str(allowed_repository(agent.settings, request.repository))
    session = lease.sessions.get((real, request.sid))
    if session is None:
        agent.repository_work.run(lambda: _aborted_before(agent.settings, request), call.settle)
        return

    def work() -> Done:
        from holdfast_agent.repository.outcomes import Outcome

        with opened(agent.settings, request.repository) as repository:
            if repository.abort(request.sid) is Outcome.COMMITTED:
                raise AlreadyExists(kind="restore point", name=request.sid)
        return Done()

    _end_session(agent, call, session, work)


def abandon_session(agent: Agent, session: WriteSession, then: Callable[[], None]) -> None:
    """Abort a session whose lease has ended and whose movers are gone; what fails here is left to ``recover``."""

    def work() -> None:
        with contextlib.closing(session.lock), opened(agent.settings, session.repository) as repository:
            repository.abort(session.sid)

    agent.repository_work.run_always(work, lambda _: then())


def _end_session(
    agent: Agent, call: Call[CommitSession] | Call[AbortSession], session: WriteSession, work: Callable[[], Done],
    then: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """A commit or an abort: on success the session leaves the lease; on failure it stays and may be tried again."""
    lease = agent.leases.get(call.key, call.request.lease)
    lease.session(session.repository, session.sid)
    session.ending = True

    def ended(outcome: Done | HoldfastError) -> None:
        session.ending = False
        if isinstance(outcome, Done):
            lease.sessions.pop((session.repository, session.sid), None)
            session.lock.close()
            then()
        call.settle(outcome)

    try:
        agent.repository_work.run(work, ended)
    except Locked:
        session.ending = False
        raise


def _session(agent: Agent, call: Call[StoreBlob], repository: str, sid: Sid) -> WriteSession:
    lease = agent.leases.get(call.key, call.request.lease)
    return lease.session(str(allowed_repository(agent.settings, repository)), sid)


def _left_by(repository: Repository, sid: Sid) -> PointEntry | None:
    """The point that a session left which this lease has not; None if it left none."""
    try:
        return repository.point(sid)
    except PointNotFound:
        return None


def _committed_before(settings: AgentSettings, request: CommitSession) -> Done:
    with opened(settings, request.repository) as repository:
        entry = _left_by(repository, request.entry.sid)
    if entry is None:
        raise SessionUnknown(sid=request.entry.sid)
    if entry != request.entry:
        raise AlreadyExists(kind="restore point", name=request.entry.sid)
    return Done()


def _aborted_before(settings: AgentSettings, request: AbortSession) -> Done:
    """Who is told that it is done relies on it: the point does not exist, and nobody is left who could commit it."""
    with opened(settings, request.repository) as repository:
        repository.abort_dead(request.sid)
        if _left_by(repository, request.sid) is not None:
            raise AlreadyExists(kind="restore point", name=request.sid)
    return Done()
