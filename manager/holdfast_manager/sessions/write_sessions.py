"""A write session of the repository as a manager's session opens and gives it up: for one VM, one copy, one heal."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from holdfast_agent.errors import AlreadyExists, HoldfastError
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.wire.messages import AbortSession, BeginSession, Done, OpenRepository, RepositoryFacts
from holdfast_manager.catalog.values import RepositoryEntry
from holdfast_manager.steps import Step

from .tasks import Context


@dataclass
class WriteAttempt:
    """One attempt to make a point. ``begun``: the repository may hold a write session ``sid``."""

    sid: Sid = field(init=False, default_factory=new_sid)
    begun: bool = field(init=False, default=False)
    _movers: int = field(init=False, default=0)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def renew(self) -> Sid:
        """Another write session, of which nothing is known yet."""
        self.sid, self.begun = new_sid(), True
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


def give_up_write_session(context: Context, attempt: WriteAttempt) -> bool:
    """Fence it, so that nothing can commit it later. Whether its point exists: it had been committed. Never raises."""
    if not attempt.begun:
        return False
    request = AbortSession(lease=context.pool.lease, repository=context.repository.path, sid=attempt.sid)
    try:
        context.pool.dismiss(context.repository.agent, request, timeout_s=None)
    except AlreadyExists:
        return True
    except HoldfastError as error:
        told = f"the write session is given up by the agent {context.repository.agent} itself, when its lease runs out"
        context.recorder.note(f"{told} or at its next start: {error.text}", "warning", Step.COMMIT)
    return False
