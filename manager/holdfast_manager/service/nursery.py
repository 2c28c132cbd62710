"""The service's end of :mod:`holdfast_manager.nursery`: keeps the process that they are forked from."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from holdfast_agent.prctl import end_with_parent
from holdfast_agent.starting import module_command
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.nursery import door
from holdfast_manager.settings import ManagerSettings

_COMMAND: Final = module_command("holdfast_manager.nursery.template")
_PAUSE_S = 60.0
log = logging.getLogger(__name__)


class Nursery:
    """One thread. Nothing depends on it: whatever becomes of it, commands and sessions load all by themselves."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog, config: Path | None) -> None:
        self._settings = settings
        self._config = config
        self._catalog = catalog
        self._template: subprocess.Popen[bytes] | None = None
        self._due = 0.0

    def look(self) -> None:
        """Start the process if it does not run, and is not switched off. Called every few seconds while the service
        leads. Raises what ``Catalog`` does.
        """
        if door.is_off(os.environ):
            return
        now = time.monotonic()
        if self._template is not None and self._template.poll() is not None:
            log.warning(
                "the process that commands and sessions are forked from ended with %d", self._template.returncode
            )
            self._template, self._due = None, now + _PAUSE_S
        if self._template is None and now >= self._due:
            hypervisors = sorted({server.plugin for server in self._catalog.servers.list()})
            try:
                self._template = self._start(hypervisors)
            except OSError as error:
                log.warning("commands and sessions are not loaded beforehand: %s", error)
                self._due = now + _PAUSE_S

    def close(self) -> None:
        """The service leads no more. What was forked goes on. Idempotent."""
        if self._template is not None:
            self._template.kill()
            self._template.wait()
            self._template, self._due = None, 0.0
            door.remove(self._settings.home)

    def _start(self, hypervisors: Sequence[str]) -> subprocess.Popen[bytes]:
        with door.make(
            self._settings.home
        ) as made:  # ours no longer: when the process ends, nobody is left who would listen
            return subprocess.Popen(
                [*_COMMAND, *hypervisors],
                stdin=made.fileno(),
                cwd="/",
                env=self._settings.environment(self._config),  # as it is now, when sessions get it
                start_new_session=True,
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGKILL),
            )
