"""A write session of the repository as a manager's session opens and gives it up: for one VM, one copy, one heal."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass, field

from holdfast_agent.errors import AlreadyExists, HoldfastError
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.wire.messages import AbortSession, BeginSession, Done, OpenRepository, RepositoryFacts
from holdfast_manager.catalog.values import PointEntryRow, RepositoryEntry
from holdfast_manager.steps import Step

from .tasks import Context


@dataclass
class WriteAttempt:
    """One attempt to make a point. ``begun``: the repository may hold a write session ``sid``.

    ``pending``: the point that it was asked to make of that, from before it was asked. ``given_up``: nothing is to
    become of it any more.
    """

    sid: Sid = field(init=False, default_factory=new_sid)
    begun: bool = field(init=False, default=False)
    pending: PointEntryRow | None = field(init=False, default=None)
    given_up: bool = field(init=False, default=False)
    _movers: int = field(init=False, default=0)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def renew(self) -> Sid:
        """Another write session, of which nothing is known yet."""
        self.sid, self.begun = new_sid(), True
        self.pending, self.given_up = None, False
        return self.sid

    def next_mover(self) -> int:
        """A number for one more writer of the write session; never given twice. Thread-safe."""
        with self._lock:
            number, self._movers = self._movers, self._movers + 1
            return number


def open_repositories(context: Context, *repositories: RepositoryEntry) -> None:
    """Make sure that they are there, before anything is begun. Raises what agents raise."""
    for repository in repositories:
        context.pool.ask(repository.agent, OpenRepository(repository=repository.path), RepositoryFacts)


def begin_write_session(context: Context, sid: Sid) -> None:
    """Before anything is chosen to build on: from now on a collector spares what is there. Raises what agents raise."""
    request = BeginSession(lease=context.pool.lease, repository=context.repository.path, sid=sid)
    context.pool.ask(context.repository.agent, request, Done)


class GivenUp(enum.Enum):
    """What is known of the point of a write session that was given up."""

    GONE = "it does not exist and never will"
    COMMITTED = "it exists, and the catalogue knows it"
    UNSETTLED = "it may exist; the catalogue has it written down as pending"


def give_up_write_session(context: Context, attempt: WriteAttempt) -> GivenUp:
    """Fence it, so that nothing can commit it later, or learn that its point exists. Never raises.

    To be called again while that is unsettled: an agent that was away is looked for anew then.
    """
    if not attempt.begun:
        return GivenUp.GONE
    again, attempt.given_up = attempt.given_up, True
    try:
        exists = _fence(context, attempt.sid, again)
        if attempt.pending is None:
            return GivenUp.COMMITTED if exists else GivenUp.GONE
        return _settle(context, attempt.pending, exists)
    except HoldfastError as error:
        told = f"the write session is given up by the agent {context.repository.agent} itself, when its lease runs out"
        context.recorder.note(f"{told} or at its next start: {error.text}", "warning", Step.COMMIT)
    return GivenUp.GONE if attempt.pending is None else GivenUp.UNSETTLED


def settle_left_behind(context: Context) -> None:
    """Learn which points exist that sessions were committing when they died or lost the repository. Never raises.

    Called at a session's start, when the repository is there, before base points are chosen.
    """
    for row in context.catalog.pending_points.left_behind(context.repository.name):
        try:
            given_up = _settle(context, row, _fence(context, row.sid, again=True))
        except HoldfastError as error:
            told = f"whether the restore point {row.sid[:12]} of {row.vm_name} exists is not known yet"
            context.recorder.note(f"{told}: {error}", "warning", Step.START)
            continue
        if given_up is GivenUp.COMMITTED:
            told = f"restore point {row.sid[:12]}, of which session {row.session} had not heard, was remembered"
            context.recorder.note(f"{row.vm_name}: {told}", step=Step.START)


def _fence(context: Context, sid: Sid, again: bool) -> bool:
    """Whether its point exists; if not, it never will. Raises what agents raise, ``Locked`` while that is undecided."""
    request = AbortSession(lease=context.pool.lease, repository=context.repository.path, sid=sid)
    try:
        if again:
            context.pool.ask(context.repository.agent, request, Done)
        else:
            context.pool.dismiss(context.repository.agent, request, timeout_s=None)
    except AlreadyExists:
        return True
    return False


def _settle(context: Context, pending: PointEntryRow, exists: bool) -> GivenUp:
    if exists:
        context.catalog.points.add(pending)
        return GivenUp.COMMITTED
    context.catalog.pending_points.strike(pending.sid)
    return GivenUp.GONE
