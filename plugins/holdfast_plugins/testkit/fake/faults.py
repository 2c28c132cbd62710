"""Faults on command: a queue for each call of the server, from which the next call takes what happens to it."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """What happens to a call: first ``then`` is called, then ``error`` is raised; without one the call goes on.

    ``after``: the call does its work first, and fails when it answers. That is how a lost answer looks.
    """

    error: Exception | None = None
    then: Callable[[], object] | None = None
    after: bool = False

    def strike(self) -> None:
        if self.then is not None:
            self.then()
        if self.error is not None:
            raise self.error


class Faults:
    """Faults that were ordered and have not happened yet. Thread-safe."""

    def __init__(self) -> None:
        self._ordered: dict[str, deque[Fault | None]] = defaultdict(deque)
        self._lock = threading.Lock()

    def order(self, call: str, fault: Fault, *, times: int = 1, skip: int = 0) -> None:
        """The next ``times`` calls of ``call`` meet ``fault``, after ``skip`` that go well."""
        with self._lock:
            self._ordered[call].extend([None] * skip + [fault] * times)

    def next(self, call: str) -> Fault:
        """For the server: what the call that begins now meets."""
        with self._lock:
            ordered = self._ordered.get(call)
            return (ordered.popleft() if ordered else None) or Fault()

    def left(self) -> list[str]:
        """Calls with faults that never happened: a test that ordered them has not tested what it says."""
        with self._lock:
            return sorted(call for call, ordered in self._ordered.items() if ordered)
