"""Whether the process that took a snapshot still lives: it holds a lock on a file as long as it does.

The journal tells what dead sessions of one manager have left, but not what a manager has left that is gone itself, nor
what libvirt only began when its client was dead already.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Alive:
    """Held from before a snapshot is made until it is removed; the kernel lets go of it when the process ends."""

    def __init__(self, path: Path) -> None:
        """Raises ``OSError``."""
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(descriptor)


def is_alive(path: Path) -> bool:
    """Whether somebody holds the lock at ``path``. Raises ``OSError`` when that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
