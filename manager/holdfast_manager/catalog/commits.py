"""What a PostgreSQL server is asked about a commit whose answer was lost with the connection."""

from __future__ import annotations

import secrets
import threading
from typing import NamedTuple

from sqlalchemy import Connection, text

_MARK = text(
    """
    WITH written AS MATERIALIZED (SELECT pg_current_xact_id_if_assigned() IS NOT NULL AS anything),
         forgotten AS (DELETE FROM commits USING written
                       WHERE anything AND (token = ANY(:told) OR made < extract(epoch FROM now()) - 86400))
    INSERT INTO commits (token, made) SELECT :token, extract(epoch FROM now()) FROM written WHERE anything
    """
)


class Mark(NamedTuple):
    """Of a transaction: its own, and those of earlier ones that it removes."""

    token: str
    told: frozenset[str]


class CommitMarks:
    """Each transaction that writes leaves a row that only it can have left: the row is there if it was committed.

    (The number that PostgreSQL itself gives a transaction will not do: after a crash it may be given again.) A row goes
    with the next transaction of the process that was told of its commit; those of processes that died go after a day.
    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: frozenset[str] = frozenset()

    def leave(self, connection: Connection) -> Mark | None:
        """The last statement of a transaction. None: it has written nothing, so that it need not be known."""
        mark = Mark(secrets.token_hex(16), self._told)
        left = connection.execute(_MARK, {"token": mark.token, "told": list(mark.told)}).rowcount
        return mark if left else None

    def committed(self, mark: Mark) -> None:
        """Nobody will ask for it any more."""
        with self._lock:
            self._told = self._told - mark.told | {mark.token}

    @staticmethod
    def is_there(connection: Connection, mark: Mark) -> bool:
        """Whether the transaction was committed; to be asked when it has ended for sure."""
        return connection.scalar(text("SELECT 1 FROM commits WHERE token = :token"), {"token": mark.token}) is not None
