"""Sees to it that exports, and the VMs that run from them, outlive their sessions: one that died is followed.

What clients flushed is durable, the point is held, and the new session serves at the old address: a guest that waits
for its disks goes on after a restart of the manager's host without anybody's doing.
"""

from __future__ import annotations

import logging
from functools import partial

import msgspec

from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.sessions.kept_exports import interrupted

from .orphan_hunter import Try, due_now
from .starter import Starter

log = logging.getLogger(__name__)


class Resumer:
    """One thread. What it remembers is how often it tried, by export; a new service tries at once."""

    def __init__(self, catalog: Catalog, starter: Starter) -> None:
        self._catalog = catalog
        self._starter = starter
        self._tried: dict[str, Try] = {}

    def look(self, now: float) -> None:
        """Begin sessions that are due. Called every few seconds, after dead sessions were reaped."""
        waiting = {request.export: (entry, request) for entry, request in interrupted(self._catalog)}
        for export in due_now(waiting, self._tried, now):
            if not self._starter.has_room:
                return
            died, request = waiting[export]
            number = self._tried[export].number + 1 if export in self._tried else 1
            self._tried[export] = Try(now, number)
            spec = msgspec.to_builtins(request)
            entry = self._starter.start(partial(self._catalog.sessions.begin, died.kind, spec))
            log.warning("session %d goes on with what session %d served, which died", entry.id, died.id)
