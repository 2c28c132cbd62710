"""A throw-away repository inside a real one's directory: on the same storage, and nothing of the real one is touched.

For measuring. One at a time; the lock of its folder goes with the process, so what a killed one left is known to be
dead, and is removed by whoever opens the repository next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path

from holdfast_agent.errors import Locked
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.sealing.slots import public_slot

from .repository import Repository, SessionLock, create_repository

FOLDER = "benchmark"


class Scratch:
    """``path``: the throw-away repository; ``sid``: a write session that is open in it. Close it on every path."""

    def __init__(self, root: Path) -> None:
        """Raises :class:`Locked` while another one is there, and errors of the storage."""
        self._folder = root / FOLDER
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._fd = _lock(self._folder)
        if self._fd is None:
            raise Locked(what=f"{self._folder}", holder="another benchmark")
        self._session: SessionLock | None = None
        try:
            _empty(self._folder)
            self.path = self._folder / "repository"
            self.cache_dir = self._folder / "cache"
            self.cache_dir.mkdir()
            repository_id = secrets.token_hex(16)
            create_repository(self.path, repository_id, {"first": public_slot(repository_id)})
            self.sid: Sid = new_sid()
            repository = Repository.open(self.path, self.cache_dir)
            try:
                self._session = repository.begin_session(self.sid)
            finally:
                repository.close()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove all of it. Idempotent, never raises: what cannot be removed now is removed by who comes next."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._fd is not None:
            _empty(self._folder)
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            os.close(self._fd)
            self._fd = None


def clear_scratch(root: Path) -> None:
    """Remove what a killed benchmark left in the repository at ``root``. Never touches a living one, never raises."""
    folder = root / FOLDER
    fd = _lock(folder)
    if fd is None:
        return
    _empty(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()
    os.close(fd)


def _lock(folder: Path) -> int | None:
    """The folder, locked; None if it is not there or somebody else's."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _empty(folder: Path) -> None:
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()
