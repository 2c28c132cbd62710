"""Forgets old history, logs of sessions that are forgotten, and what the audit log need not remember: each hour."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.history import Forgotten
from holdfast_manager.reports.sentences import counted
from holdfast_manager.settings import ManagerSettings

log = logging.getLogger(__name__)

_EVERY_S = 3600.0
_AT_MOST_S = 0.2
"""Of each look, so that nothing else that is due waits."""
_LOG = re.compile(r"session-(\d{1,18})\.log")


class Housekeeping:
    """One thread. Begins when the service does, and each hour anew."""

    def __init__(self, settings: ManagerSettings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._steps: Iterator[Forgotten] | None = None
        self._next = 0.0
        self._done = Forgotten()

    def look(self, now: float) -> None:
        """Go on with what was begun, or begin when it is time. ``now``: Unix seconds. Raises what ``Catalog`` does."""
        if self._steps is None:
            if self._next - _EVERY_S <= now < self._next:
                return
            self._next = now + _EVERY_S
            self._steps = self._catalog.history.prune(self._settings.history)
        try:
            if self._go_on(self._steps):
                return
        except BaseException:
            self._steps = None  # a generator that has raised is over; the next look begins anew
            self._next = now
            raise
        self._steps, done, self._done = None, self._done, Forgotten()
        logs = remove_logs(self._settings, self._catalog, now)
        self._catalog.audit.prune(self._settings.audit.keep_s)
        if done != Forgotten() or logs:
            gone = counted(done.sessions, "old session"), counted(done.events, "event"), counted(logs, "log")
            log.info("forgot %s, %s and %s", *gone)

    def _go_on(self, steps: Iterator[Forgotten]) -> bool:
        """Whether there is more to do."""
        give_up = time.monotonic() + _AT_MOST_S
        for step in steps:
            self._done += step
            if time.monotonic() >= give_up:
                return True
        return False


def remove_logs(settings: ManagerSettings, catalog: Catalog, now: float) -> int:
    """Remove this host's logs of sessions that are no more. Returns how many."""
    found = {int(named[1]): path for path in _files(settings.log_dir) if (named := _LOG.fullmatch(path.name))}
    gone = sorted(found.keys() - catalog.history.known(sorted(found)))
    # A catalogue that was brought back from a backup may not know the latest sessions; their logs tell what happened.
    old = [found[number] for number in gone if found[number].stat().st_mtime < now - settings.history.events_s]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _files(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []
