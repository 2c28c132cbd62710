"""Which of several services leads: one at any time, the others stand by."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog.again import run_again
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.database import Database
from holdfast_manager.settings import ManagerSettings

_LEADER_LOCK = 0x484C6561  # any number that other programs of the same database are unlikely to take


class Leadership(Protocol):
    """A lock that ends with the process that holds it, whatever ends that. One thread."""

    def take(self) -> bool:
        """Try to lead; whether this service does now. Raises nothing: who cannot ask does not lead."""
        ...

    def is_held(self) -> bool:
        """Whether this service leads still. Asked before each look: a connection that is gone has lost it."""
        ...

    def give_up(self) -> None:
        """Let another lead. Idempotent, never raises."""
        ...

    def is_taken(self) -> bool:
        """Whether anybody leads, this service or another."""
        ...


def leadership(settings: ManagerSettings, catalog: Catalog) -> Leadership:
    """What fits the catalogue's database."""
    if catalog.database.is_sqlite:
        return FileLeadership(settings.home / "service.lock")
    return ServerLeadership(catalog.database)


class FileLeadership:
    """By a lock on a file: for the services of one host."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def take(self) -> bool:
        if self._descriptor is None:
            self._descriptor = self._lock()
        return self._descriptor is not None

    def is_held(self) -> bool:
        return self._descriptor is not None

    def give_up(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_taken(self) -> bool:
        if self.is_held():
            return True
        if not self._file.exists():  # whoever only looks makes nothing
            return False
        descriptor = self._lock()
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def _lock(self) -> int | None:
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


class ServerLeadership:
    """By an advisory lock of PostgreSQL, on a connection of its own: the server frees it when that ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    def take(self) -> bool:
        if self.is_held():
            return True
        with contextlib.suppress(HoldfastError, SQLAlchemyError):
            connection = self._database.keep_connection()
            if connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LEADER_LOCK}):
                self._connection = connection
                return True
            connection.close()
        return False

    def is_held(self) -> bool:
        if self._connection is None:
            return False
        try:
            self._connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            self.give_up()
        return self._connection is not None

    def give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Unlocked, because the server notices only a moment later that a connection is closed; and closed, because
            # one that is kept for others must not keep a lock.
            with contextlib.suppress(SQLAlchemyError):
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LEADER_LOCK})
            with contextlib.suppress(SQLAlchemyError):
                connection.invalidate()
            with contextlib.suppress(SQLAlchemyError):
                connection.close()

    @run_again
    def is_taken(self) -> bool:
        query = text("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = :lock AND granted")
        with self._database.reading() as connection:
            return connection.scalar(query, {"lock": _LEADER_LOCK}) is not None
