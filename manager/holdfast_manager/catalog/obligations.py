"""Obligations: what must be removed from a hypervisor again, written down before it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import select

from .again import runs_again
from .database import Database
from .rows import columns_of, from_row, insert, require
from .tables import obligations, servers
from .values import Obligation

_COLUMNS = columns_of(obligations, Obligation)
_ERROR_LIMIT = 2000  # characters; enough for people, whatever a hypervisor's API sends


@runs_again
class Obligations:
    """The table of open obligations. Thread-safe; every method is one transaction and durable when it returns."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def write(self, session: int, server: str, plugin: str, kind: str, data: Mapping[str, str]) -> int:
        """Call this before the act. Returns the obligation's number. Raises ``NotFound`` for the server."""
        row = {
            "session": session,
            "server": server,
            "plugin": plugin,
            "kind": kind,
            "data": dict(data),
            "created": self._clock(),
            "attempts": 0,
            "last_error": "",
        }
        with self._database.writing() as connection:
            require(connection, servers, "server", server)
            return insert(connection, obligations, row)

    def strike(self, number: int) -> None:
        """What it stands for is gone. Idempotent."""
        with self._database.writing() as connection:
            connection.execute(obligations.delete().where(obligations.c.id == number))

    def failed(self, number: int, error: BaseException) -> None:
        """An attempt to fulfil it failed; it stays open. No effect on one that was struck off."""
        change = {"attempts": obligations.c.attempts + 1, "last_error": str(error)[:_ERROR_LIMIT]}
        with self._database.writing() as connection:
            connection.execute(obligations.update().where(obligations.c.id == number).values(change))

    def open_of(self, session: int | None = None, server: str | None = None) -> tuple[Obligation, ...]:
        """Open obligations, **newest first** (made last, removed first); of all sessions and servers unless told."""
        query = select(*_COLUMNS).order_by(obligations.c.id.desc())
        if session is not None:
            query = query.where(obligations.c.session == session)
        if server is not None:
            query = query.where(obligations.c.server == server)
        with self._database.reading() as connection:
            return tuple(from_row(row, Obligation) for row in connection.execute(query))
