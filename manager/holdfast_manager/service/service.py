"""The loop of the Backup Service: lead or stand by, look, do what is due, wait."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from holdfast_agent.errors import HoldfastError
from holdfast_manager.api.server import ServesApi
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.settings import ManagerSettings

from .announcing import Announcer
from .console import ConsoleKeeper
from .housekeeping import Housekeeping
from .jobs import JobWatch
from .leadership import Leadership, leadership
from .metrics import TellsMetrics
from .nursery import Nursery
from .orphan_hunter import OrphanHunter
from .resuming import Resumer
from .starter import Starter
from .systemd import Supervisor

log = logging.getLogger(__name__)

_IDLE_POLLS = 5
"""Looks of the service, while nothing runs, are so many times as far apart as those of a session."""
_LONGEST_WAIT_S = 20.0
"""systemd is told more often than this that the service is well (WatchdogSec=60), and clocks that jump are noticed."""


class Stop:
    """Becomes readable when SIGTERM or SIGINT comes. A pipe: a handler that takes a lock may meet its own thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.asked = False

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """The signals' handler."""
        self.asked = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"x")

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or at once when it was asked."""
        select.select([self._read], [], [], max(0.0, seconds))

    def close(self) -> None:
        """Called once, last."""
        os.close(self._read)
        os.close(self._write)


class BackupService:
    """One process. ``clock`` gives Unix seconds. Sessions that it started go on when it ends."""

    def __init__(
        self,
        settings: ManagerSettings,
        catalog: Catalog,
        config: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._supervisor = Supervisor()  # first: what it takes out of the environment the others must not hand on
        self._catalog = catalog
        self._clock = clock
        self._poll_s = settings.timing.poll
        self._leadership: Leadership = leadership(settings, catalog)
        self._starter = Starter(settings, catalog, config)
        self._jobs = JobWatch(catalog, self._starter)
        self._hunter = OrphanHunter(catalog, self._starter)
        self._resumer = Resumer(catalog, self._starter)
        self._housekeeping = Housekeeping(settings, catalog)
        self._announcer = Announcer(settings, catalog, config)
        self._metrics = TellsMetrics(settings.metrics.listen, catalog)
        self._console = ConsoleKeeper(settings, config)
        self._api = ServesApi(settings, catalog, config)
        self._nursery = Nursery(settings, catalog, config)
        self._leads = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises what cannot be waited out, such as ``CatalogNewer``."""
        with _stopped_by_signals() as stop:
            self._supervisor.tell("READY=1")
            while not stop.asked:
                stop.wait(self._turn())
            self._supervisor.tell("STOPPING=1")
        self._announcer.stop()
        self._console.close()
        self._metrics.close()
        self._api.close()
        self._nursery.close()
        self._leadership.give_up()
        log.info("the service has stopped; sessions that run go on")

    def _turn(self) -> float:
        """One look. Returns for how long to wait."""
        self._supervisor.tell("WATCHDOG=1")
        try:
            if not self._lead():
                return self._poll_s
            return self._look()
        except HoldfastError as error:
            if not error.retryable:
                raise
            log.warning("the service waits: %s", error)
            return self._poll_s

    def _lead(self) -> bool:
        leads = self._leadership.is_held() or self._leadership.take()
        if leads and not self._leads:
            self._catalog.services.lead()
            self._metrics.open()
            self._api.open()
            log.info("the service leads")
            self._supervisor.tell("STATUS=leads")
        elif self._leads and not leads:
            self._metrics.close()
            self._console.close()
            self._api.close()
            self._nursery.close()
            log.warning("the service no longer leads")
        if not leads:
            self._supervisor.tell("STATUS=stands by: another service leads")
        self._leads = leads
        return leads

    def _look(self) -> float:
        for dead in self._catalog.sessions.reap_dead():
            log.warning("session %d died (%s)", dead.id, dead.process)
        self._starter.look()
        self._hunter.look(self._clock())
        self._resumer.look(self._clock())
        wake = self._jobs.look(self._clock())
        self._housekeeping.look(self._clock())
        self._announcer.look()
        self._console.look()
        self._nursery.look()
        longest = self._poll_s if self._starter.busy else min(_IDLE_POLLS * self._poll_s, _LONGEST_WAIT_S)
        # a due moment that lies in the past means: soon, but not in a loop without a breath
        return longest if wake is None else min(longest, max(wake - self._clock(), self._poll_s / 10))


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    stop = Stop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop.on_signal) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        stop.close()
