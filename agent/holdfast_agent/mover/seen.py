"""Which ids have been met before, for repositories whose ids do not fit into memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from holdfast_agent.model.ids import BlockId

_CACHE_KIB = 32 << 10
_MOST_VARIABLES = 500


class Seen:
    """An exact set in a temporary database that SQLite deletes by itself, even when the process is killed.

    Some 50 bytes an id on disk, 32 MiB of memory whatever their number; a few microseconds an id, where opening the
    block takes a thousand. One owner thread; close it.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID")

    def new(self, ids: Sequence[BlockId]) -> list[BlockId]:
        """Those of ``ids`` that were never given before, each once and in their order; from now on they were."""
        fresh: dict[BlockId, None] = dict.fromkeys(ids)
        wanted = list(fresh)
        for start in range(0, len(wanted), _MOST_VARIABLES):
            batch = wanted[start : start + _MOST_VARIABLES]
            marks = ",".join("?" * len(batch))
            query = f"SELECT id FROM seen WHERE id IN ({marks})"  # noqa: S608 -- marks only
            for (known,) in self._database.execute(query, batch):
                del fresh[BlockId(known)]
        self._database.executemany("INSERT INTO seen VALUES (?)", ((identity,) for identity in fresh))
        return list(fresh)

    def close(self) -> None:
        self._database.close()
