"""The guests that a processor froze, so that none stays frozen when the processor goes."""

from __future__ import annotations

import contextlib
import threading
from typing import TypeVar

from holdfast_agent.errors import PlatformError
from holdfast_plugins.api import FreezeHandle

H = TypeVar("H", bound=FreezeHandle)


class FrozenGuests:
    """Handles of one processor. Thread-safe."""

    def __init__(self) -> None:
        self._handles: list[FreezeHandle] = []
        self._lock = threading.Lock()

    def add(self, handle: H) -> H:
        """Remember a guest that was frozen just now; returns its handle."""
        with self._lock:
            self._handles.append(handle)
        return handle

    def thaw_all(self) -> None:
        """Thaw what nobody thawed. Called when the processor is closed; never raises errors of a guest."""
        with self._lock:
            handles, self._handles = self._handles, []
        for handle in handles:
            with contextlib.suppress(PlatformError):
                handle.thaw()
