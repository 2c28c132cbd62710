"""A token bucket over what a mover sends."""

from __future__ import annotations

import time
from collections.abc import Callable

_BURST_S = 0.1


class RateLimiter:
    """Lets ``bytes_per_s`` pass on average, a tenth of a second's worth at once. Changed while it runs."""

    def __init__(self, bytes_per_s: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = 0.0
        self._then = clock()
        self._rate: int | None = None
        self.change(bytes_per_s)

    def change(self, bytes_per_s: int | None) -> None:
        """A new limit from now on; None lifts it. What was sent too much under the old one is forgiven."""
        self._rate = bytes_per_s
        self._tokens = 0.0
        self._then = self._clock()

    def delay_s(self) -> float:
        """Seconds until the next message may leave; 0.0 if it may now."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._then) * self._rate, self._rate * _BURST_S)
        self._then = now
        return max(0.0, -self._tokens / self._rate)

    def spent(self, count_bytes: int) -> None:
        """Note that a message of this size left. It may overdraw; the next one waits for it."""
        if self._rate is not None:
            self._tokens -= count_bytes
