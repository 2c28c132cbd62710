"""The folder of one export on its agent's host: its lock, its socket, and what was written to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from pathlib import Path

from holdfast_agent.errors import Locked, UsageError

SOCKET_NAME = "nbd.sock"
_LOCK = "lock"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


class ExportFolder:
    """Held by one exporter at a time; the kernel frees the lock with its process, so none is ever stale."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def take(cls, directory: Path, name: str) -> ExportFolder:
        """Make or adopt the folder ``name``. Raises :class:`Locked` while another exporter has it, OSError."""
        path = folder_of(directory, name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path.mkdir(mode=0o700, exist_ok=True)
            fd = _locked(path)
            if fd is None:
                raise Locked(what=f"the export {name}", holder="another exporter of this agent")
            if (path / _LOCK).exists():  # else it was removed between its opening and its locking
                return cls(path, fd)
            os.close(fd)

    def close(self, *, remove: bool) -> None:
        """Give it up. ``remove``: nothing in it is wanted any more. Never raises."""
        if remove:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)


def folder_of(directory: Path, name: str) -> Path:
    """Raises :class:`UsageError` for a name that a manager may not choose."""
    if not _NAME.fullmatch(name):
        raise UsageError(reason="an export is named by up to 64 letters, digits, dots and dashes")
    return directory / name


def remove_dead(directory: Path, wanted: str) -> None:
    """Remove folders whose exporters are gone, but for those with a file ``wanted``: their writes are kept."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            fd = None if (path / wanted).exists() else _locked(path)
            if fd is not None:
                ExportFolder(path, fd).close(remove=True)


def _locked(path: Path) -> int | None:
    try:
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        path.mkdir(mode=0o700, exist_ok=True)
        return _locked(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
