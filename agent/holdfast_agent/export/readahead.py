"""When to read ahead, and how far: for a client that reads on from where it was, more each time."""

from __future__ import annotations

MOST_BYTES = 16 << 20
_STEPS_BEFORE = 2  # blocks in a row that chance would not make


class ReadAhead:
    """The course of one client on one disk. Used by one thread."""

    def __init__(self, block_bytes: int) -> None:
        self._most = max(1, MOST_BYTES // block_bytes)
        self._last = -2
        self._steps = 0
        self._asked = 0

    def after(self, first: int, last: int) -> range:
        """The client asks for blocks ``first`` to ``last`` now: those that it is going to ask for, each told once."""
        if first not in (self._last, self._last + 1):
            self._steps = self._asked = 0
        elif last > self._last:
            self._steps += 1
        self._last = last
        if self._steps < _STEPS_BEFORE:
            return range(0)
        start = max(self._asked, last + 1)
        self._asked = max(start, last + 1 + min(self._most, 1 << self._steps))
        return range(start, self._asked)
