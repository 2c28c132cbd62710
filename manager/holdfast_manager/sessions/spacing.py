"""Keeps snapshots of one datastore apart: each stops its VM for a moment and costs the datastore a burst of writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection


class SnapshotSpacing:
    """Of one session. Thread-safe."""

    def __init__(self, spacing_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``spacing_s``: between the begins of two snapshots on one datastore; 0 for none."""
        self._spacing_s = spacing_s
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}

    def wait(self, datastores: Collection[str]) -> None:
        """Return when a snapshot of a VM on ``datastores`` may begin. Called before its guest is brought to rest."""
        pause_s = self.reserve(datastores)
        if pause_s > 0:
            time.sleep(pause_s)

    def reserve(self, datastores: Collection[str]) -> float:
        """Take the next turn on all of ``datastores``; in how many seconds that is."""
        with self._lock:
            now = self._clock()
            begin = max((now, *(self._next.get(datastore, now) for datastore in datastores)))
            self._next |= dict.fromkeys(datastores, begin + self._spacing_s)
        return begin - now
