"""Notices: written in the transaction that ends a session, so that nobody who is to hear of it is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Select, select

from ..settings import NotifierSettings
from .again import runs_again
from .database import Database
from .rows import columns_of, from_row
from .tables import notices
from .values import NoticeEntry

CLAIM_S = 300.0
"""Whoever delivers has so long; then it is another's turn, for who delivers may have died."""
GIVE_UP_S = 86400.0
_FIRST_PAUSE_S = 60.0
_LONGEST_PAUSE_S = 3600.0
_COLUMNS = columns_of(notices, NoticeEntry)


def pause_after(attempts: int) -> float:
    """Before the next attempt: 1, 4, 16 minutes, then an hour."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 4.0 ** min(attempts - 1, 9))


@runs_again
class Notices:
    """The table of notices. Thread-safe; every method but ``write`` is one transaction.

    ``notifiers``: those of this process's configuration. Who delivers takes notices of these only: another host may
    have others.
    """

    def __init__(
        self, database: Database, clock: Callable[[], float], notifiers: Mapping[str, NotifierSettings]
    ) -> None:
        self._database = database
        self._clock = clock
        self._notifiers = notifiers

    def write(self, connection: Connection, session: int, kind: str, job: str, result: str) -> None:
        """In the transaction that ends a session: write down who wants to hear of it."""
        now = self._clock()
        rows = [
            {"session": session, "notifier": name, "created": now, "due": now, "attempts": 0, "last_error": ""}
            for name, settings in self._notifiers.items()
            if settings.wants(kind, job, result)
        ]
        if rows:
            connection.execute(notices.insert(), rows)

    def any_due(self) -> bool:
        """Whether there is something to deliver; cheap, for polling."""
        with self._database.reading() as connection:
            return connection.execute(self._due().limit(1)).first() is not None

    def claim(self) -> NoticeEntry | None:
        """Take the notice that has been due for longest; nobody else takes it for ``CLAIM_S``. None: there is none.

        Counts as an attempt, whatever becomes of who took it.
        """
        if not self.any_due():
            return None
        with self._database.writing() as connection:
            row = connection.execute(self._due().order_by(notices.c.due).limit(1)).first()
            if row is None:
                return None
            change = {"due": self._clock() + CLAIM_S, "attempts": row.attempts + 1}
            connection.execute(notices.update().where(notices.c.id == row.id).values(change))
            taken = connection.execute(select(*_COLUMNS).where(notices.c.id == row.id)).one()
            return from_row(taken, NoticeEntry)

    def delivered(self, number: int) -> None:
        """It has arrived."""
        self._set(number, due=None, delivered=self._clock(), last_error="")

    def failed(self, entry: NoticeEntry, reason: str, retryable: bool) -> None:
        """It has not arrived: when it is tried again, if ever, depends on how long it has been tried."""
        now = self._clock()
        again = retryable and now - entry.created < GIVE_UP_S
        self._set(entry.id, due=now + pause_after(entry.attempts) if again else None, last_error=reason)

    def list(self, session: int | None = None, open_only: bool = False, limit: int = 1000) -> tuple[NoticeEntry, ...]:
        """Of one session, or of all, the newest first. ``open_only``: those that are still to be delivered."""
        query = select(*_COLUMNS).order_by(notices.c.id.desc()).limit(limit)
        if session is not None:
            query = query.where(notices.c.session == session)
        if open_only:
            query = query.where(notices.c.due.is_not(None))
        with self._database.reading() as connection:
            return tuple(from_row(row, NoticeEntry) for row in connection.execute(query))

    def _due(self) -> Select[Any]:
        known = notices.c.notifier.in_(list(self._notifiers))
        return select(*_COLUMNS).where(notices.c.due <= self._clock(), known)

    def _set(self, number: int, **values: object) -> None:
        with self._database.writing() as connection:
            connection.execute(notices.update().where(notices.c.id == number).values(**values))
