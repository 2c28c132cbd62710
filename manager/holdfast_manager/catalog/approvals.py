"""Four eyes: requests for approval, and whether they are required on this manager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from holdfast_agent.errors import NotFound, UsageError

from ..rights.actor import Actor
from ..rights.approval import ASKED_S, GRANTED_S, ApprovalEntry, ApprovalNeeded, ApprovalState, check_other, digest
from .again import runs_again
from .database import Database
from .rights_tables import approvals, four_eyes
from .rows import columns_of, from_row, insert

_COLUMNS = columns_of(approvals, ApprovalEntry)


@runs_again
class Approvals:
    """The tables of approvals. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def required(self) -> bool:
        """Whether deletions take a second person here."""
        with self._database.reading() as connection:
            return _required(connection)

    def require(self, actor: Actor) -> None:
        """From now on they do. Idempotent. Whether there is a second person is the caller's to know."""
        with self._database.writing() as connection:
            if not _required(connection):
                connection.execute(four_eyes.insert().values(place=1, required_by=actor.name, since=self._clock()))

    def waive(self) -> None:
        """From now on they do not. That this was approved is the caller's to see to."""
        with self._database.writing() as connection:
            connection.execute(four_eyes.delete())

    def pass_or_ask(self, actor: Actor, action: str, targets: Sequence[str]) -> int | None:
        """Called right before something is done that takes approval; ``targets`` say all of what it acts on.

        Returns None where none is required, or the number of the grant, which is used up by this. Else the request is
        written down (once, until it expires), and ``ApprovalNeeded`` raised.
        """
        if not self.required():
            return None
        with self._database.writing() as connection:
            found = self._open(connection, actor, digest(action, targets))
            if found is not None and found.state is ApprovalState.GRANTED:
                _set(connection, found.id, state=ApprovalState.USED.value)
                return found.id
            number = self._ask(connection, actor, action, targets) if found is None else found.id
        raise ApprovalNeeded(action=action, number=number)

    def grant(self, number: int, actor: Actor) -> ApprovalEntry:
        """Raises ``NotFound``, ``UsageError`` for one that is decided or expired, ``Denied`` for the asker's own."""
        return self._decide(number, actor, ApprovalState.GRANTED, GRANTED_S)

    def refuse(self, number: int, actor: Actor) -> ApprovalEntry:
        """As ``grant``; one's own request may be refused, too: that takes it back."""
        return self._decide(number, actor, ApprovalState.REFUSED, 0.0)

    def list(self, everything: bool = False, limit: int = 1000) -> tuple[ApprovalEntry, ...]:
        """Those that wait for a decision or for their command, the oldest first; or all."""
        query = select(*_COLUMNS).order_by(approvals.c.id)
        if not everything:
            query = _that_wait(query, self._clock())
        with self._database.reading() as connection:
            return tuple(from_row(row, ApprovalEntry) for row in connection.execute(query.limit(limit)))

    def _ask(self, connection: Connection, actor: Actor, action: str, targets: Sequence[str]) -> int:
        now = self._clock()
        row = {"asker": actor.name, "asker_local": actor.local, "action": action, "targets": list(targets)}
        more = {"state": ApprovalState.ASKED.value, "asked": now, "expires": now + ASKED_S, "decider": ""}
        return insert(connection, approvals, {**row, **more, "digest": digest(action, targets)})

    def _open(self, connection: Connection, actor: Actor, wanted: str) -> ApprovalEntry | None:
        """The actor's own that waits, the granted one first. On the manager's host all are one person."""
        own = approvals.c.asker_local if actor.local else (approvals.c.asker == actor.name) & ~approvals.c.asker_local
        query = _that_wait(select(*_COLUMNS), self._clock()).where(approvals.c.digest == wanted, own)
        row = connection.execute(query.order_by(approvals.c.state.desc(), approvals.c.id)).first()
        return None if row is None else from_row(row, ApprovalEntry)

    def _decide(self, number: int, actor: Actor, state: ApprovalState, lasts_s: float) -> ApprovalEntry:
        now = self._clock()
        with self._database.writing() as connection:
            row = connection.execute(select(*_COLUMNS).where(approvals.c.id == number)).first()
            if row is None:
                raise NotFound(
                    kind="request", name=str(number), advice="`holdfast approval list` shows those that wait"
                )
            entry = from_row(row, ApprovalEntry)
            if state is ApprovalState.GRANTED:
                check_other(entry, actor)
            if entry.state is not ApprovalState.ASKED or entry.expires <= now:
                told = "expired" if entry.state is ApprovalState.ASKED else entry.state.value
                raise UsageError(reason=f"request {number} waits for no decision: it is {told}")
            _set(connection, number, state=state.value, decider=actor.name, decided=now, expires=now + lasts_s)
            return from_row(connection.execute(select(*_COLUMNS).where(approvals.c.id == number)).one(), ApprovalEntry)


def _required(connection: Connection) -> bool:
    return connection.execute(select(four_eyes.c.place)).first() is not None


def _that_wait(query: Select[Any], now: float) -> Select[Any]:
    waiting = (ApprovalState.ASKED.value, ApprovalState.GRANTED.value)
    return query.where(approvals.c.state.in_(waiting), approvals.c.expires > now)


def _set(connection: Connection, number: int, **values: object) -> None:
    connection.execute(approvals.update().where(approvals.c.id == number).values(**values))
