"""Tasks: one virtual disk in one session each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select

from holdfast_agent.errors import NotFound

from .again import runs_again
from .database import Database
from .rows import columns_of, from_row, insert, to_row
from .tables import tasks
from .values import TaskEntry

_COLUMNS = columns_of(tasks, TaskEntry)


@runs_again
class Tasks:
    """The table of tasks. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entries: Sequence[TaskEntry]) -> tuple[TaskEntry, ...]:
        """Store new tasks (``id`` 0); returns them with their numbers, in the same order."""
        with self._database.writing() as connection:
            stored = []
            for entry in entries:
                stored.append(msgspec.structs.replace(entry, id=insert(connection, tasks, to_row(entry))))
            return tuple(stored)

    def update(self, entries: Sequence[TaskEntry]) -> None:
        """Replace what is stored of these tasks, all in one transaction. Raises ``NotFound`` and then changes none."""
        with self._database.writing() as connection:
            replace_tasks(connection, entries)

    def get(self, number: int) -> TaskEntry:
        """Raises ``NotFound``."""
        with self._database.reading() as connection:
            row = connection.execute(select(*_COLUMNS).where(tasks.c.id == number)).first()
        if row is None:
            raise _unknown(number)
        return from_row(row, TaskEntry)

    def list(self, session: int) -> tuple[TaskEntry, ...]:
        """All tasks of a session, in the order in which they were stored."""
        query = select(*_COLUMNS).where(tasks.c.session == session).order_by(tasks.c.id)
        with self._database.reading() as connection:
            return tuple(from_row(row, TaskEntry) for row in connection.execute(query))


def replace_tasks(connection: Connection, entries: Sequence[TaskEntry]) -> None:
    """Within a transaction; ``NotFound`` undoes it."""
    for entry in entries:
        if connection.execute(tasks.update().where(tasks.c.id == entry.id).values(to_row(entry))).rowcount == 0:
            raise _unknown(entry.id)


def _unknown(number: int) -> NotFound:
    return NotFound(kind="task", name=str(number), advice="`holdfast session show` lists the tasks of a session")
