"""The client's own files: each under its number in one folder, and bounded all together."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection
from pathlib import Path

from holdfast_agent.descriptors import write_at
from holdfast_agent.durable import sync_folder

from .protocol import Refusal, Status

MOST_FILE_BYTES = 1 << 40
"""A swap file is as large as its VM's memory, and sparse."""


class Scratch:
    """Thread-safe. Raises OSError, and :class:`Refusal` (STALE) for a file that is gone."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """``most_bytes``: on the storage, of all files together."""
        self._folder = folder
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._left = 0  # that may certainly be written before it must be counted again

    def make(self, number: int) -> None:
        """An empty file, durable; what a crash left under this number was never told to anybody."""
        os.close(os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        sync_folder(self._folder)

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def remove_others(self, numbers: Collection[int]) -> None:
        """What a crash left: files that were made or removed, and whose names were not yet, or no more."""
        for path in self._folder.glob("[0-9a-f]*"):
            if int(path.name, 16) not in numbers:
                path.unlink()

    def stat(self, number: int) -> os.stat_result:
        try:
            return self._path(number).stat()
        except FileNotFoundError as error:
            raise Refusal(Status.STALE) from error

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Fewer bytes at the end of the file."""
        fd = self._open(number, os.O_RDONLY)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def write(self, number: int, offset: int, data: memoryview, *, durable: bool) -> None:
        if offset + len(data) > MOST_FILE_BYTES:
            raise Refusal(Status.FBIG)
        self._take(len(data))
        fd = self._open(number, os.O_RDWR)
        try:
            write_at(fd, offset, data)
            if durable:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def resize(self, number: int, size_bytes: int) -> None:
        """Durable when it returns."""
        if size_bytes > MOST_FILE_BYTES:
            raise Refusal(Status.FBIG)
        fd = self._open(number, os.O_RDWR)
        try:
            os.ftruncate(fd, size_bytes)
            os.fsync(fd)
        finally:
            os.close(fd)

    def set_times(self, number: int, atime_ns: int | None, mtime_ns: int | None) -> None:
        """None: as it is."""
        now = self.stat(number)
        times = (now.st_atime_ns if atime_ns is None else atime_ns, now.st_mtime_ns if mtime_ns is None else mtime_ns)
        os.utime(self._path(number), ns=times)

    def sync(self, number: int) -> None:
        fd = self._open(number, os.O_RDWR)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    @property
    def free_bytes(self) -> int:
        """That can be written still: of what is allowed, and of what the storage has."""
        there = os.statvfs(self._folder)
        return min(max(0, self._most_bytes - self._used()), there.f_bavail * there.f_frsize)

    @property
    def most_bytes(self) -> int:
        return self._most_bytes

    def _take(self, length: int) -> None:
        """Raises :class:`Refusal`. What is written twice counts twice until it is counted again."""
        with self._lock:
            if length > self._left:
                self._left = self._most_bytes - self._used()
            if length > self._left:
                raise Refusal(Status.NOSPC)
            self._left -= length

    def _used(self) -> int:
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self._folder))

    def _open(self, number: int, flags: int) -> int:
        try:
            return os.open(self._path(number), flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise Refusal(Status.STALE) from error
            raise

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:016x}"
