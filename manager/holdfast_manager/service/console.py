"""The web console's process: started while the service leads, and again when it dies, which hurts nobody else."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

from holdfast_agent.starting import module_command
from holdfast_manager.settings import ManagerSettings

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0
_WELL_S = 600.0
"""One that has lived for so long died of something new: the pauses begin anew."""
_FAREWELL_S = 10.0


class ConsoleKeeper:
    """One thread. The process ends when its standard input does, so that none outlives its service."""

    def __init__(self, settings: ManagerSettings, config: Path | None) -> None:
        self._wanted = bool(settings.console.listen)
        self._environment = settings.environment(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._due = 0.0

    def look(self) -> None:
        """Start it if it should run and does not. Called every few seconds while the service leads."""
        if not self._wanted:
            return
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            if now - self._began > _WELL_S:
                self._pause_s = _FIRST_PAUSE_S
            log.error(
                "the web console ended with %d; it is started again in %g s", self._process.returncode, self._pause_s
            )
            self._process = None
            self._due, self._pause_s = now + self._pause_s, min(_LONGEST_PAUSE_S, self._pause_s * 2)
        if self._process is None and now >= self._due:
            command = module_command("holdfast_manager.console")
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=self._environment)
            self._began = now

    def close(self) -> None:
        """The service leads no more. Idempotent."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            log.warning("the web console does not end, it is killed")
            process.kill()
            process.wait()
