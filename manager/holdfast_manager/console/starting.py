"""Sessions that somebody starts by the console: they are processes of their own, which outlive it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from holdfast_agent.errors import HoldfastError
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionEntry
from holdfast_manager.service.starter import Starter
from holdfast_manager.settings import ManagerSettings

log = logging.getLogger(__name__)
_LOOK_S = 1.0


class SessionStarts:
    """Thread-safe. A thread of its own sees to those that end before they begin, as the service does to its own."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, config: Path | None) -> None:
        self._starter = Starter(settings, catalog, config)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, begin: Callable[[], SessionEntry]) -> SessionEntry:
        """Start the process of the session that ``begin`` writes down. Raises what ``begin`` raises."""
        with self._lock:
            entry = self._starter.start(begin)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="starts", daemon=True)
                self._thread.start()
        return entry

    def close(self) -> None:
        """Called once, last. What runs goes on."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            try:
                with self._lock:
                    self._starter.look()
            except HoldfastError as error:  # a busy database: the next look is soon
                log.warning("sessions could not be looked after: %s", error)
