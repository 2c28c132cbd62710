"""The folder of one export on its agent's host: its lock, its socket, and what was written to its disks.

Folders lie in one directory for each manager, so that no manager can so much as name what is another's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from holdfast_agent.errors import Locked, UsageError

SOCKET_NAME = "nbd.sock"
FORGOTTEN_AFTER_S = 86400.0
"""What is neither kept nor in use is for a session that may come back; after a day none will."""

_LOCK = "lock"
_KEPT = "kept"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


class ExportFolder:
    """Held by one process at a time; the kernel frees the lock with that, so none is ever stale."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def take(cls, directory: Path, name: str) -> ExportFolder:
        """Make or adopt the folder ``name``. Raises :class:`Locked` while somebody else has it, OSError, and as
        :func:`folder_of`."""
        path = folder_of(directory, name)
        while True:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            taken = cls._lock(path)
            if taken is None:
                raise Locked(what=f"the export {name}", holder="its exporter")
            if taken.path.exists():  # else it was removed between its opening and its locking
                return taken
            taken.close(remove=False)

    @classmethod
    def _lock(cls, path: Path) -> ExportFolder | None:
        """None while somebody has it. Raises OSError."""
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return cls(path, fd)

    def keep(self) -> None:
        """What is written here stays until it is discarded, whoever forgets it."""
        (self.path / _KEPT).touch(0o600)

    def show_life(self) -> None:
        """Called now and then, so that what is left behind is known to be recent."""
        with suppress(OSError):
            os.utime(self.path / _LOCK)

    def close(self, *, remove: bool) -> None:
        """Give it up. ``remove``: nothing in it is wanted any more. Never raises."""
        if remove:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)


def directory_of(directory: Path, manager: str) -> Path:
    """Where the exports of a manager are, who is known by its public key."""
    return directory / hashlib.sha256(manager.encode()).hexdigest()[:16]


def folder_of(directory: Path, name: str) -> Path:
    """The folder of an export. Raises :class:`UsageError` for a name that a manager may not choose."""
    if not _NAME.fullmatch(name):
        raise UsageError(reason="an export is named by up to 64 letters, digits and dashes")
    return directory / name


def overlay_folder(folder: Path, disk: str) -> Path:
    """Where what is written to one disk of an export is kept, whatever its name holds."""
    return folder / f"disk-{hashlib.sha256(disk.encode()).hexdigest()[:16]}"


def kept_in(directory: Path) -> Iterator[tuple[str, int, bool]]:
    """(name, bytes on the storage, whether it is in use) of each folder that holds writes, by name."""
    for path in sorted(directory.glob("*/")):
        overlays = list(path.glob("disk-*/data"))
        if overlays:
            with suppress(OSError):
                taken = ExportFolder._lock(path)
                if taken is not None:
                    taken.close(remove=False)
                yield path.name, sum(each.stat().st_blocks * 512 for each in overlays), taken is None


def discard(directory: Path, name: str) -> None:
    """Remove a folder with all that was written there. Idempotent. Raises :class:`Locked` while it is in use, and as
    :func:`folder_of`."""
    if folder_of(directory, name).is_dir():
        ExportFolder.take(directory, name).close(remove=True)


def remove_forgotten(directory: Path) -> None:
    """Remove, in the directories of all managers, what is neither kept nor in use nor recent. Never raises."""
    earliest = time.time() - FORGOTTEN_AFTER_S
    for lock in directory.glob(f"*/*/{_LOCK}"):
        with suppress(OSError):
            if (lock.parent / _KEPT).exists() or lock.stat().st_mtime > earliest:
                continue
            taken = ExportFolder._lock(lock.parent)
            if taken is not None:
                taken.close(remove=True)
