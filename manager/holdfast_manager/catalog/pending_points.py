"""Restore points that are being committed, written down before their repository is asked to make them exist."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from holdfast_agent.model.ids import Sid

from .again import runs_again
from .database import Database
from .rows import require, to_row
from .tables import pending_points, repositories, sessions
from .values import PointEntryRow, SessionState


@runs_again
class PendingPoints:
    """The table of points of which nobody may know yet whether they exist. Thread-safe; every method is one
    transaction and durable when it returns.

    A row goes when its point is remembered (by :class:`~.points.Points`), or is known never to exist.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, row: PointEntryRow) -> None:
        """Call this before the commit, with what is to be remembered after it. Raises ``NotFound``."""
        values = {"sid": row.sid, "repository": row.repository, "session": row.session, "point": to_row(row)}
        with self._database.writing() as connection:
            require(connection, repositories, "repository", row.repository)
            connection.execute(pending_points.insert().values(values))

    def strike(self, sid: Sid) -> None:
        """The point does not exist and never will. Idempotent."""
        with self._database.writing() as connection:
            connection.execute(pending_points.delete().where(pending_points.c.sid == sid))

    def left_behind(self, repository: str) -> tuple[PointEntryRow, ...]:
        """Those in ``repository`` whose sessions are over."""
        alive = select(sessions.c.id).where(sessions.c.state != SessionState.ENDED.value)
        session = pending_points.c.session  # none: its history was forgotten
        query = select(pending_points.c.point, session).where(pending_points.c.repository == repository)
        query = query.where(session.is_(None) | session.not_in(alive))
        with self._database.reading() as connection:
            return tuple(
                msgspec.convert({**row.point, "session": row.session}, PointEntryRow)
                for row in connection.execute(query)
            )
