"""What takes time to know: asked for by threads of their own, and told as it was last known."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class Asked(Generic[T]):
    """An answer that is asked for anew when somebody looks and it is older than ``every_s``; never by two at once.

    ``ask`` may hang or raise: then the last answer stays. Thread-safe.
    """

    def __init__(self, what: str, ask: Callable[[], T], every_s: float) -> None:
        self._what = what
        self._ask = ask
        self._every_s = every_s
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._asking = False
        self._value: T | None = None
        self._at = float("-inf")

    def look(self, wait_s: float = 0.0) -> T | None:
        """The last answer; None if there is none yet after ``wait_s``."""
        with self._lock:
            if not self._asking and time.monotonic() - self._at > self._every_s:
                self._asking = True
                threading.Thread(target=self._run, name=self._what, daemon=True).start()
        if wait_s:
            self._answered.wait(wait_s)
        with self._lock:
            return self._value

    def _run(self) -> None:
        value: T | None = None
        try:
            value = self._ask()
        except Exception as error:  # noqa: BLE001 (thread boundary: plugins and peers may fail as they like)
            log.warning("%s: %s", self._what, error)
        with self._lock:
            self._asking = False
            self._at = time.monotonic()
            if value is not None:
                self._value = value
        self._answered.set()


class Kept(Generic[T]):
    """Answers that are the same for everybody who looks within ``for_s``. Thread-safe; whoever comes second waits."""

    def __init__(self, for_s: float, most: int = 64) -> None:
        self._for_s = for_s
        self._most = most
        self._lock = threading.Lock()
        self._making: dict[object, threading.Lock] = {}
        self._kept: dict[object, tuple[float, T]] = {}

    def get(self, key: object, make: Callable[[], T]) -> T:
        """Raises what ``make`` raises."""
        with self._lock:
            if len(self._making) > self._most:
                self._making.clear()
                self._kept.clear()
            gate = self._making.setdefault(key, threading.Lock())
        with gate:
            kept = self._kept.get(key)
            if kept is not None and time.monotonic() - kept[0] < self._for_s:
                return kept[1]
            made = make()
            self._kept[key] = (time.monotonic(), made)
            return made
