"""Handlers of messages for the role repository. All work on storage happens in threads, never in the loop's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_agent.config.settings import AgentSettings
from holdfast_agent.errors import (
    AlreadyExists,
    FormatUnsupported,
    HoldfastError,
    LeaseUnknown,
    Locked,
    ObjectDamaged,
    PointNotFound,
    RepositoryDenied,
    SessionUnknown,
    UsageError,
)
from holdfast_agent.model.ids import BlockId, Sid
from holdfast_agent.model.paths import is_below
from holdfast_agent.model.points import PointEntry
from holdfast_agent.wire.messages import (
    AbortSession,
    BeginSession,
    BlobRecord,
    BlobStored,
    CommitSession,
    CreateRepository,
    Done,
    IndexRebuilt,
    KeySlot,
    ListPoints,
    OpenRepository,
    PointList,
    ReadBlob,
    ReadPoint,
    RebuildIndex,
    RepositoryFacts,
    StoreBlob,
)

from .agent import Agent
from .calls import Call
from .sessions import HeldLock, WriteSession, check_mover_number, session_of

if TYPE_CHECKING:
    from holdfast_agent.repository.repository import Repository

_PAGE_POINTS = 500
_PAGE_BYTES = 4 << 20  # of points, so that a page fits a message
_BLOB_BYTES = 4 << 20


def allowed_repository(settings: AgentSettings, path: str) -> Path:
    """The real path of a repository that managers may use. Raises :class:`RepositoryDenied`."""
    if not is_below(path, settings.repository_paths):
        raise RepositoryDenied(path=path[:1024], reason="it lies outside the directories open to managers")
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def opened(settings: AgentSettings, path: str) -> Iterator[Repository]:
    """An allowed repository, closed at the end. For threads: opening reads the storage."""
    from holdfast_agent.repository.repository import Repository  # an idle agent has no need of it

    allowed = allowed_repository(settings, path)
    with contextlib.closing(Repository.open(allowed, settings.cache_dir)) as repository:
        yield repository


def create_repository(agent: Agent, call: Call[CreateRepository]) -> None:
    request = call.request

    def work() -> RepositoryFacts:
        from holdfast_agent.repository.repository import create_repository

        path = allowed_repository(agent.settings, request.repository)
        slots = {slot.name: slot.body for slot in request.slots}
        if len(slots) != len(request.slots):
            raise UsageError(reason="two key slots have the same name")
        create_repository(path, request.repository_id, slots)
        with opened(agent.settings, request.repository) as repository:
            return _facts(repository)

    agent.repository_work.run(work, call.settle)


def open_repository(agent: Agent, call: Call[OpenRepository]) -> None:
    def work() -> RepositoryFacts:
        with opened(agent.settings, call.request.repository) as repository:
            repository.recover()
            return _facts(repository)

    agent.repository_work.run(work, call.settle)


def list_points(agent: Agent, call: Call[ListPoints]) -> None:
    def work() -> PointList:
        with opened(agent.settings, call.request.repository) as repository:
            return _page(repository, call.request.after, min(max(1, call.request.limit), _PAGE_POINTS))

    agent.repository_work.run(work, call.settle)


def read_point(agent: Agent, call: Call[ReadPoint]) -> None:
    def work() -> PointList:
        with opened(agent.settings, call.request.repository) as repository:
            return PointList(points=(repository.point(call.request.sid),), more=False)

    agent.repository_work.run(work, call.settle)


def read_blob(agent: Agent, call: Call[ReadBlob]) -> None:
    def work() -> BlobRecord:
        try:
            blob = BlockId(bytes.fromhex(call.request.blob))
        except ValueError:
            raise UsageError(reason="a blob is named by its id in hex digits") from None
        with opened(agent.settings, call.request.repository) as repository:
            return BlobRecord(record=repository.read_blob(blob))

    agent.repository_work.run(work, call.settle)


def rebuild_index(agent: Agent, call: Call[RebuildIndex]) -> None:
    def work() -> IndexRebuilt:
        with opened(agent.settings, call.request.repository) as repository:
            return IndexRebuilt(records=repository.index.rebuild())

    agent.repository_work.run(work, call.settle)


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
            repository.commit(request.entry, request.packs)
        return Done()

    _end_session(agent, call, session, work)


def abort_session(agent: Agent, call: Call[AbortSession]) -> None:
    request = call.request
    lease = agent.leases.get(call.key, request.lease)
    real = str(allowed_repository(agent.settings, request.repository))
    session = lease.sessions.get((real, request.sid))
    if session is None:
        agent.repository_work.run(lambda: _aborted_before(agent.settings, request), call.settle)
        return

    def work() -> Done:
        from holdfast_agent.repository.repository import Outcome

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
    agent: Agent, call: Call[CommitSession] | Call[AbortSession], session: WriteSession, work: Callable[[], Done]
) -> None:
    """A commit or an abort: on success the session leaves the lease; on failure it stays and may be tried again."""
    lease = agent.leases.get(call.key, call.request.lease)
    session_of(lease, session.repository, session.sid)
    session.ending = True

    def ended(outcome: Done | HoldfastError) -> None:
        session.ending = False
        if isinstance(outcome, Done):
            lease.sessions.pop((session.repository, session.sid), None)
            session.lock.close()
        call.settle(outcome)

    try:
        agent.repository_work.run(work, ended)
    except Locked:
        session.ending = False
        raise


def _session(agent: Agent, call: Call[StoreBlob], repository: str, sid: Sid) -> WriteSession:
    lease = agent.leases.get(call.key, call.request.lease)
    return session_of(lease, str(allowed_repository(agent.settings, repository)), sid)


def _facts(repository: Repository) -> RepositoryFacts:
    total, free = repository.space()
    slots = tuple(KeySlot(name, body) for name, body in sorted(repository.key_slots().items()))
    return RepositoryFacts(repository_id=repository.repository_id, slots=slots, total_bytes=total, free_bytes=free)


def _page(repository: Repository, after: str, limit: int) -> PointList:
    """Points in the order of their ids. Outcomes that are no readable point are passed over; verify names them."""
    points: list[PointEntry] = []
    size = 0
    for sid in repository.point_sids():
        if sid <= after:
            continue
        try:
            entry = repository.point(sid)
        except (PointNotFound, ObjectDamaged, FormatUnsupported):
            continue
        size += len(entry.body) + len(entry.mac)
        if points and (len(points) >= limit or size > _PAGE_BYTES):
            return PointList(points=tuple(points), more=True)
        points.append(entry)
    return PointList(points=tuple(points), more=False)


def _settled_before(settings: AgentSettings, path: str, sid: Sid) -> PointEntry | None:
    """The point that a session left which no lease has any more; None if it left none. Changes nothing."""
    with opened(settings, path) as repository:
        try:
            return repository.point(sid)
        except PointNotFound:
            return None


def _committed_before(settings: AgentSettings, request: CommitSession) -> Done:
    entry = _settled_before(settings, request.repository, request.entry.sid)
    if entry is None:
        raise SessionUnknown(sid=request.entry.sid)
    if entry != request.entry:
        raise AlreadyExists(kind="restore point", name=request.entry.sid)
    return Done()


def _aborted_before(settings: AgentSettings, request: AbortSession) -> Done:
    if _settled_before(settings, request.repository, request.sid) is not None:
        raise AlreadyExists(kind="restore point", name=request.sid)
    return Done()
