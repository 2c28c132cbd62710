"""Starts the processes of sessions, and sees to those that end before they took their session over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import SessionEntry, SessionResult, SessionState
from holdfast_manager.sessions.birth import Process
from holdfast_manager.sessions.launch import SessionLauncher, SessionNotStarted
from holdfast_manager.settings import ManagerSettings

log = logging.getLogger(__name__)

_AT_ONCE = 8
"""Processes that start at the same time: one that loads its modules by itself takes a core for a third of a second."""


class Starter:
    """The processes that the service has started. They go on when it ends; another one finds them in the catalogue.

    One thread.
    """

    def __init__(self, settings: ManagerSettings, catalog: Catalog, config: Path | None) -> None:
        self._settings = settings
        self._catalog = catalog
        self._config = config
        self._processes: dict[int, Process] = {}
        self._starting: set[int] = set()

    @property
    def has_room(self) -> bool:
        """Whether one more process may be started now."""
        return len(self._starting) < _AT_ONCE

    @property
    def busy(self) -> bool:
        """Whether any of them runs."""
        return bool(self._processes)

    def start(self, begin: Callable[[], SessionEntry]) -> SessionEntry:
        """Start the process of the session that ``begin`` writes down. Raises what ``begin`` raises."""
        with SessionLauncher(self._settings, self._config) as launcher:
            entry = begin()
            launcher.run(entry.id)
            self._processes[entry.id] = launcher.process
            self._starting.add(entry.id)
        return entry

    def look(self) -> None:
        """Forget those that have ended; end sessions whose process was gone before it began. Once a second."""
        for number in sorted(self._starting):
            ended = self._processes[number].poll() is not None
            if self._catalog.sessions.get(number).state is not SessionState.STARTING:
                self._starting.discard(number)
            elif ended:
                self._starting.discard(number)
                self._not_started(number)
        for number, process in list(self._processes.items()):
            if process.poll() is not None and number not in self._starting:
                del self._processes[number]

    def _not_started(self, number: int) -> None:
        place = self._settings.log_dir / f"session-{number}.log"
        error: HoldfastError = SessionNotStarted(session=number, log=str(place))
        log.error("%s", error)
        self._catalog.sessions.end(number, SessionResult.FAILED, error.to_record())
