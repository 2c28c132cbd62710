"""Holds a backup back where it would make the VMs slow that it is about: on datastores that take long to answer.

No task starts on a datastore above one latency, and those that read from one above another are slowed down, by halves,
until it is better. What a datastore takes is told by the hypervisor (``OffersLoad``); what nobody tells is not limited.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.units import MIB, format_size
from holdfast_manager.catalog.values import ServerLimits
from holdfast_plugins.api import HypervisorDriver, OffersLoad

from ..traffic.shares import UNLIMITED, Share
from .events import TaskKey

log = logging.getLogger(__name__)

LOOK_EVERY_S = 20.0
"""As often as hypervisors measure."""
FIRST_RATE, LEAST_RATE = 64 * MIB, MIB
"""In bytes per second: to what a task is slowed down first, and at the most."""


class _Held(msgspec.Struct, frozen=True):
    """A task that may not start yet. ``start``: lets it."""

    datastore: str
    start: Callable[[], None]


def next_rate(latency_ms: float, limit_ms: float, rate: int | None) -> int | None:
    """What a task may read after another measurement, in bytes per second; None: all that it can. Pure."""
    if latency_ms > limit_ms:
        return FIRST_RATE if rate is None else max(LEAST_RATE, rate // 2)
    return None if rate is None or rate * 2 > FIRST_RATE else rate * 2


class StorageCare:
    """Of one session. Thread-safe. ``slow``: tells a task's movers what they may send, for this reason alone.

    ``tell``: says why a task waits. Without limits it does nothing.
    """

    def __init__(
        self,
        driver: HypervisorDriver,
        limits: ServerLimits,
        slow: Callable[[TaskKey, Share], None],
        tell: Callable[[TaskKey, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._limits = limits
        self._slow = slow
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[TaskKey, _Held] = {}
        self._running: dict[TaskKey, tuple[str, int | None]] = {}
        self._latencies: Mapping[str, float] = {}
        self._looked: float | None = None
        self._looking = False

    def start(self, task: TaskKey, datastore: str, start: Callable[[], None]) -> None:
        """Call ``start`` now, or as soon as the datastore is quick enough; see :meth:`tick`."""
        limit = self._limits.latency_ms
        if limit is None or not datastore:
            start()
            return
        if self._due():
            self._measure({datastore, *self._watched()})
        latency = self._latencies.get(datastore, 0.0)
        if latency <= limit:
            start()
            return
        with self._lock:
            self._held[task] = _Held(datastore, start)
        self._tell(task, f"datastore {datastore} answers in {latency:.0f} ms, and {limit:g} are the limit")

    def transfers(self, task: TaskKey, datastore: str) -> None:
        """``task`` begins to read from ``datastore``."""
        if self._limits.throttle_latency_ms is not None and datastore:
            with self._lock:
                self._running[task] = (datastore, None)

    def forget(self, task: TaskKey) -> None:
        """``task`` is over, or is not to start any more. Idempotent."""
        with self._lock:
            self._held.pop(task, None)
            self._running.pop(task, None)

    def tick(self) -> None:
        """Called in the driver's thread about once a poll interval: measures in a thread of its own when it is time."""
        with self._lock:
            wanted = bool(self._held or self._running) and not self._looking
            if not wanted or not self._due():
                return
            self._looking = True
        threading.Thread(target=self._look_once, name="storage-care", daemon=True).start()

    def look(self) -> None:
        """Measure, let tasks start that may, and slow those down that must be."""
        self._measure(self._watched())
        limit, throttle = self._limits.latency_ms, self._limits.throttle_latency_ms
        with self._lock:
            free = {
                task: held for task, held in self._held.items()
                if limit is None or self._latencies.get(held.datastore, 0.0) <= limit
            }  # fmt: skip
            for task in free:
                del self._held[task]
            changed = {}
            for task, (datastore, rate) in self._running.items():
                latency = self._latencies.get(datastore, 0.0)
                following = next_rate(latency, throttle or float("inf"), rate)
                if following != rate:
                    self._running[task] = (datastore, following)
                    changed[task] = (following, f"storage: {datastore} answers in {latency:.0f} ms")
        for held in free.values():
            held.start()
        for task, (rate, why) in changed.items():
            log.info("%s may read %s a second: %s", task, "all" if rate is None else format_size(rate), why)
            self._slow(task, UNLIMITED if rate is None else Share(rate, why))

    def _look_once(self) -> None:
        try:
            self.look()
        finally:
            with self._lock:
                self._looking = False

    def _due(self) -> bool:
        return self._looked is None or self._clock() - self._looked >= LOOK_EVERY_S

    def _watched(self) -> set[str]:
        with self._lock:
            return {held.datastore for held in self._held.values()} | {store for store, _ in self._running.values()}

    def _measure(self, datastores: Collection[str]) -> None:
        self._looked = self._clock()
        if not isinstance(self._driver, OffersLoad):
            return
        try:
            self._latencies = self._driver.latencies_ms(datastores)
        except HoldfastError as error:
            log.warning("what datastores take is not known, and holds nobody back: %s", error)
            self._latencies = {}
