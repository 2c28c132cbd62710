"""Memory that a thread keeps: a new mebibyte costs the kernel more to clear than its block costs to decrypt."""

from __future__ import annotations

import mmap
import threading


class ThreadBuffer(threading.local):
    """One for each thread, as large as what the thread needed most of it. Begins at a page, so that a disk can take or
    give it as it is."""

    def __init__(self) -> None:
        self._buffer = memoryview(b"")

    def view(self, length: int) -> memoryview:
        """So many bytes, writable, with whatever the last use left in them; the next call gives the same ones."""
        if len(self._buffer) < length:
            self._buffer = memoryview(mmap.mmap(-1, length))
        return self._buffer[:length]
