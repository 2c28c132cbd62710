"""When each pack was last read from end to end and found whole: in the host-local cache, so that budgets can go round.

A cache: lost or odd it only means that packs are read sooner than they need to be.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

_SCHEMA = "CREATE TABLE IF NOT EXISTS checks (pack TEXT PRIMARY KEY, checked REAL NOT NULL) WITHOUT ROWID"
_BUSY_S = 10.0
T = TypeVar("T")


class CheckTimes:
    """The times of one repository on this host. Opens its file for each call; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "checks.sqlite"

    def all(self) -> Mapping[str, float]:
        """Unix time of the last good check of each pack; packs never checked here are left out."""
        return self._with(lambda database: dict(database.execute("SELECT pack, checked FROM checks"))) or {}

    def note(self, packs: Iterable[str], now: float) -> None:
        """These packs were found whole at ``now``."""
        rows = [(pack, now) for pack in packs]
        self._with(lambda database: database.executemany("INSERT OR REPLACE INTO checks VALUES (?, ?)", rows))

    def _with(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run ``action`` in a transaction. A file that is no such database is thrown away; one that is busy passed."""
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as database, database:
                database.execute(_SCHEMA)
                return action(database)
        except sqlite3.OperationalError:
            return None  # busy, full or read-only: the next verification reads these packs again
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            return None
