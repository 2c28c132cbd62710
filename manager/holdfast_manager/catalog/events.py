"""Events: what happened in each session, in order. Written once, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select

from .again import runs_again
from .database import Database
from .rows import columns_of, from_row, to_row
from .tables import events
from .tasks import replace_tasks
from .values import EventEntry, TaskEntry

_COLUMNS = columns_of(events, EventEntry)


@runs_again
class Events:
    """The table of events. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, entries: Sequence[EventEntry], tasks: Sequence[TaskEntry] = ()) -> None:
        """Store events (``id`` 0) in this order and what became of these tasks by them, all or none.

        Collect what happens together: a commit is a sync. Raises ``NotFound`` for a task that is not there.
        """
        if not entries and not tasks:
            return
        with self._database.writing() as connection:
            replace_tasks(connection, tasks)
            if entries:
                connection.execute(events.insert(), [to_row(entry) for entry in entries])

    def after(self, session: int, last_id: int = 0, limit: int = 1000) -> tuple[EventEntry, ...]:
        """Events of a session later than the number ``last_id``, oldest first, at most ``limit``.

        Following = asking again with the last number received; only the session's own process writes its events, so
        none can appear before one that was seen.
        """
        with self._database.reading() as connection:
            return tuple(from_row(row, EventEntry) for row in connection.execute(following(session, last_id, limit)))


def following(session: int, last_id: int, limit: int) -> Select[Any]:
    """The query of ``Events.after``, served by an index."""
    query = select(*_COLUMNS).where(events.c.session == session, events.c.id > last_id)
    return query.order_by(events.c.id).limit(limit)
