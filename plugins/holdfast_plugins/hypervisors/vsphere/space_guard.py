"""Watches the datastores under living snapshots, and gives a snapshot up before it fills one.

A restore point that is not made costs a night; a datastore that is full stops every VM on it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from holdfast_agent.errors import HoldfastError

from .binding import VsphereRefused
from .connection import Connection
from .datastores import look_at, short_of_room
from .options import VsphereOptions

log = logging.getLogger(__name__)

LOOK_EVERY_S = 15.0
"""At 500 MiB/s a guest writes 7 GiB meanwhile: half of ``min_free_gib`` must outlast it."""


class SpaceGuard:
    """One thread, which runs while there is something to watch. Thread-safe."""

    def __init__(
        self,
        connection: Connection,
        options: VsphereOptions,
        give_up: Callable[[str], None],
        every_s: float | None = None,
    ) -> None:
        """``give_up``: removes a snapshot by its name; called by the guard's thread. It may raise."""
        self._connection = connection
        self._least_gib = options.min_free_gib / 2
        self._give_up = give_up
        self._every_s = LOOK_EVERY_S if every_s is None else every_s
        self._lock = threading.Lock()
        self._watched: dict[str, Sequence[Any]] = {}
        self._reasons: dict[str, str] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, name: str, datastores: Sequence[Any]) -> None:
        """Begin to watch what a snapshot may grow on."""
        with self._lock:
            self._watched[name] = datastores
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vsphere-space-guard", daemon=True)
                self._thread.start()

    def forget(self, name: str) -> None:
        with self._lock:
            self._watched.pop(name, None)
            self._reasons.pop(name, None)

    def reason(self, name: str) -> str:
        """Why a snapshot was given up; empty if it was not."""
        with self._lock:
            return self._reasons.get(name, "")

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Look once at all that is watched."""
        with self._lock:
            watched = dict(self._watched)
        for name, datastores in watched.items():
            try:
                reason = short_of_room(look_at(self._connection, datastores), self._least_gib)
            except (VsphereRefused, HoldfastError) as error:
                log.warning("the room for the snapshot %s could not be looked at: %s", name, error)
                continue
            if reason:
                self._stop(name, reason)

    def _stop(self, name: str, reason: str) -> None:
        with self._lock:
            if self._watched.pop(name, None) is None:
                return
            self._reasons[name] = f"it was given up: {reason}"
        log.error("snapshot %s is given up: %s", name, reason)
        try:
            self._give_up(name)
        except (VsphereRefused, HoldfastError) as error:
            log.warning("snapshot %s, which was given up, could not be removed: %s", name, error)

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            self.look()
