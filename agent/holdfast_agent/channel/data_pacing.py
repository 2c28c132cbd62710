"""How fast a data connection may send: a token bucket, and the size of the parts that a message is sent in."""

from __future__ import annotations

import time
from collections.abc import Callable

from .data_records import MAX_PLAIN_BYTES

_BURST_S = 0.07
_PART_S = 0.025
"""Both together bound what a limit is exceeded by within any two seconds to less than 5 %."""
_LEAST_PART_BYTES = 1024
_LEAST_DELAY_S = 0.001  # what a poll can wait for; what is overslept comes back as burst


class Pacer:
    """Lets ``bytes_per_s`` pass on average, 70 ms worth at once. Owned by one thread.

    Without a limit everything passes at once, whole. Under one a message is cut into parts of a fortieth of a second,
    so that a block of 1 MiB on a line of 64 KiB/s is a thin stream of 16 s, not a burst with a silence after it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate: int | None = None
        self._tokens = 0.0
        self._then = 0.0

    def change(self, bytes_per_s: int | None) -> None:
        """A new limit from now on; None lifts it. What was sent too much under the old one is forgiven."""
        self._rate = bytes_per_s
        self._tokens = 0.0
        self._then = self._clock()

    @property
    def part_bytes(self) -> int:
        """The most that may leave in one piece."""
        if self._rate is None:
            return MAX_PLAIN_BYTES
        return max(_LEAST_PART_BYTES, int(self._rate * _PART_S))

    def delay_s(self) -> float:
        """Seconds until the next part may leave; 0.0 if it may now."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._then) * self._rate, self._rate * _BURST_S)
        self._then = now
        return 0.0 if self._tokens >= 0 else max(_LEAST_DELAY_S, -self._tokens / self._rate)

    def spent(self, count_bytes: int) -> None:
        """Note that a part of this size left. It may overdraw; the next one waits for it."""
        if self._rate is not None:
            self._tokens -= count_bytes
