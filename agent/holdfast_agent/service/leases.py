"""Leases: what a manager has on this agent, and how it ends with the manager.

A lease belongs to the public key that opened it, so one manager cannot even name what is another's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast_agent.channel.control_server import Connection
from holdfast_agent.errors import LeaseUnknown, Locked, SessionUnknown, UsageError
from holdfast_agent.model.ids import Sid
from holdfast_agent.wire.messages import MoverState

from .mover_process import MoverProcess
from .sessions import WriteSession

MIN_TTL_S = 5.0
MAX_TTL_S = 3600.0
MAX_NAME_CHARS = 128
MAX_LEASES_PER_KEY = 1000


@dataclass(eq=False)
class Lease:
    """``connection`` renewed it last and gets its pushes. ``expires`` is in the loop's monotonic seconds.

    ``tickets``: ticket → event that makes the long work end that it names. ``exports``: whose exporters were started
    here → whether what is written to them outlives the lease. ``ended_movers`` keeps the last state of movers until the
    lease is closed.
    """

    name: str
    connection: Connection
    expires: float
    movers: dict[str, MoverProcess] = field(default_factory=dict)
    sessions: dict[tuple[str, str], WriteSession] = field(default_factory=dict)
    tickets: dict[str, threading.Event] = field(default_factory=dict)
    exports: dict[str, bool] = field(default_factory=dict)
    closed: bool = False

    def states(self) -> tuple[MoverState, ...]:
        """All movers, in the order of their start."""
        return tuple(mover.state for mover in self.movers.values())

    def session(self, repository: str, sid: Sid) -> WriteSession:
        """The open session. Raises :class:`SessionUnknown`, or :class:`Locked` while it is ending."""
        session = self.sessions.get((repository, sid))
        if session is None:
            raise SessionUnknown(sid=str(sid)[:64])
        if session.ending:
            raise Locked(what=f"session {sid}", holder="a commit or an abort that is under way")
        return session


class LeaseTable:
    """All open leases. Used by the loop's thread only; ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._leases: dict[tuple[str, str], Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def renew(self, connection: Connection, name: str, ttl_s: float) -> Lease:
        """Open the lease or prolong it. Raises :class:`UsageError` for a bad name or time, :class:`Locked`."""
        check_name("lease", name)
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise UsageError(reason=f"a lease is for {MIN_TTL_S:g} to {MAX_TTL_S:g} seconds, not {ttl_s:g}")
        expires = self._clock() + ttl_s
        lease = self._leases.get((connection.key, name))
        if lease is None:
            if sum(key == connection.key for key, _ in self._leases) >= MAX_LEASES_PER_KEY:
                raise Locked(what="the agent", holder=f"{MAX_LEASES_PER_KEY} leases of this manager")
            lease = self._leases[connection.key, name] = Lease(name, connection, expires)
        lease.connection, lease.expires = connection, expires
        return lease

    def get(self, key: str, name: str) -> Lease:
        """The lease ``name`` of the manager ``key``. Raises :class:`LeaseUnknown`."""
        lease = self._leases.get((key, name))
        if lease is None:
            raise LeaseUnknown(lease=name)
        return lease

    def take(self, key: str, name: str) -> Lease | None:
        """Remove a lease from the table to close it; None if there is none."""
        return self._forget(self._leases.get((key, name)))

    def take_expired(self) -> list[Lease]:
        """Remove all leases that have run out."""
        now = self._clock()
        return self._take_where(lambda lease: lease.expires <= now)

    def take_of_others(self, admitted: Callable[[str], bool]) -> list[Lease]:
        """Remove all leases whose manager is not admitted any more."""
        return self._take_where(lambda lease: not admitted(lease.connection.key))

    def take_all(self) -> list[Lease]:
        return self._take_where(lambda lease: True)

    def live_movers(self) -> int:
        """Mover processes that run, over all leases."""
        return sum(not mover.gone for lease in self._leases.values() for mover in lease.movers.values())

    def _take_where(self, condition: Callable[[Lease], bool]) -> list[Lease]:
        found = [lease for lease in self._leases.values() if condition(lease)]
        for lease in found:
            self._forget(lease)
        return found

    def _forget(self, lease: Lease | None) -> Lease | None:
        if lease is not None:
            del self._leases[lease.connection.key, lease.name]
            lease.closed = True
        return lease


def check_name(kind: str, name: str) -> None:
    """Names come from peers and go into logs: bounded, printable. Raises :class:`UsageError`."""
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise UsageError(reason=f"the name of a {kind} has 1 to {MAX_NAME_CHARS} printable characters")
