"""Sees to it that notices of sessions are delivered: by a process of its own, which a plugin may hang or crash."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

from holdfast_agent.starting import module_command
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.notices import CLAIM_S
from holdfast_manager.settings import ManagerSettings

log = logging.getLogger(__name__)

_AT_MOST_S = CLAIM_S
"""One notice takes a minute at most; a process that has not ended in so long is stuck, and another goes on."""


class Announcer:
    """One thread. Sessions deliver their own notices when they end; here is done what that left."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, config: Path | None) -> None:
        self._catalog = catalog
        self._environment = settings.environment(config)
        self._wanted = bool(settings.notifiers)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def look(self) -> None:
        """Start a delivery when something is due. Called every few seconds. Raises what ``Catalog`` does."""
        if not self._wanted or self._runs():
            return
        if self._catalog.notices.any_due():
            command = module_command("holdfast_manager.notifying")
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=self._environment)
            self._began = time.monotonic()

    def stop(self) -> None:
        """Called once, last: end the delivery; what it had claimed is delivered later."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _runs(self) -> bool:
        if self._process is None:
            return False
        if self._process.poll() is None:
            if time.monotonic() - self._began < _AT_MOST_S:
                return True
            log.error("a delivery of notices is stuck, it is killed")
            self.stop()
        self._process = None
        return False
