"""A journal in memory, for tests of drivers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec


class Obligation(msgspec.Struct, frozen=True):
    """What a driver promised: the arguments for its ``fulfil``."""

    kind: str
    data: dict[str, str]


class MemoryJournal:
    """A ``Journal`` that a test can look into. ``on_promise`` is called with each promise, before it is kept."""

    def __init__(self, on_promise: Callable[[Obligation], None] | None = None) -> None:
        self.open: dict[int, Obligation] = {}
        self._on_promise = on_promise
        self._count = 0
        self._lock = threading.Lock()

    def promise(self, kind: str, data: dict[str, str]) -> int:
        # As the real journal does, through bytes: what cannot be stored must not pass here either.
        obligation = msgspec.json.decode(msgspec.json.encode(Obligation(kind, data)), type=Obligation)
        if self._on_promise is not None:
            self._on_promise(obligation)
        with self._lock:
            self._count += 1
            self.open[self._count] = obligation
            return self._count

    def strike(self, number: int) -> None:
        with self._lock:
            self.open.pop(number, None)
