"""Counting what a transfer does, and how busy each of its stages is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from holdfast_agent.model.stats import StageTimes, TransferCounters


class StageClock:
    """Seconds during which at least one thread was inside ``with clock``. Thread-safe, reentrant."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._inside = 0
        self._since = 0.0
        self._total = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._since = self._clock()
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._total += self._clock() - self._since

    @property
    def busy_s(self) -> float:
        with self._lock:
            return self._total + (self._clock() - self._since if self._inside else 0.0)


class Pressure:
    """Seconds during which something was held back; told by the main thread after each step."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._total = 0.0

    def tell(self, held: bool) -> None:
        now = self._clock()
        if self._since is not None:
            self._total += now - self._since
        self._since = now if held else None

    @property
    def held_s(self) -> float:
        return self._total + (self._clock() - self._since if self._since is not None else 0.0)


class Throttle:
    """Seconds during which a limit held the transfer back, by the limit's name; told as :class:`Pressure` is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits: dict[str, Pressure] = {}

    def tell(self, by: str | None) -> None:
        """``by``: the name of the limit; None: none holds anything back."""
        if by is not None and by not in self._limits:
            self._limits[by] = Pressure(self._clock)
        for name, pressure in self._limits.items():
            pressure.tell(name == by)

    @property
    def held_s(self) -> float:
        return sum(self.by_limit.values())

    @property
    def by_limit(self) -> dict[str, float]:
        return {name: pressure.held_s for name, pressure in self._limits.items()}


class Tally:
    """The counters of one transfer while it runs. Main thread only, but for the stage clocks."""

    def __init__(self) -> None:
        self.size = 0
        self.processed = 0
        self.read = 0
        self.zero = 0
        self.unused = 0
        self.unchanged = 0
        self.deduplicated = 0
        self.sent = 0
        self.transferred = 0
        self.stored = 0
        self.audited = 0
        self.missed = 0
        self.resumed = 0
        self.resent = 0
        self.source = StageClock()
        self.proxy = StageClock()
        self.target = StageClock()
        self.network = Pressure()
        self.throttled = Throttle()
        self._begun: float | None = None
        self._ended: float | None = None

    def begin(self, size_bytes: int) -> None:
        self.size = size_bytes
        self._begun = time.monotonic()

    def end(self) -> None:
        self._ended = time.monotonic()
        self.network.tell(False)
        self.throttled.tell(None)

    def snapshot(self) -> TransferCounters:
        now = self._ended or time.monotonic()
        return TransferCounters(
            size_bytes=self.size,
            processed_bytes=self.processed,
            read_bytes=self.read,
            zero_bytes=self.zero,
            unused_bytes=self.unused,
            unchanged_bytes=self.unchanged,
            deduplicated_bytes=self.deduplicated,
            sent_bytes=self.sent,
            transferred_bytes=self.transferred,
            stored_bytes=self.stored,
            audited_blocks=self.audited,
            missed_blocks=self.missed,
            resumed=self.resumed,
            resent_bytes=self.resent,
            elapsed_s=now - self._begun if self._begun is not None else 0.0,
            stages=StageTimes(
                source_s=self.source.busy_s,
                proxy_s=self.proxy.busy_s,
                network_s=self.network.held_s,
                target_s=self.target.busy_s,
                throttled_s=self.throttled.held_s,
            ),
            throttled_by=self.throttled.by_limit,
        )
