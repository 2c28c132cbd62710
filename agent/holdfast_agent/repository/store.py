"""Objects with names: the small interface under a repository, and its implementation on a file system.

Invariants that everything above relies on: an object appears under its name whole and durable, or not at all; it
never changes; a name is given once. An object store with conditional puts can implement the same interface.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from holdfast_agent.descriptors import read_at
from holdfast_agent.errors import (
    ObjectMissing,
    RepositoryDenied,
    RepositoryError,
    RepositoryFull,
    RepositoryIoError,
    RepositoryReadOnly,
)

from .file_systems import network_file_system
from .file_writing import Buffer, System, write_pieces
from .layout import RESERVE, TMP

_ATTEMPTS = 5
_RESERVE_BYTES = 64 << 20  # a generation's lists, and what the local index needs when it lies on the same disk
_RESERVE_PART = 64  # at most this part of a small disk
_RESERVE_WHEN = 4  # set aside only while so many times its size are free
_RESERVE_SLICES = 16
_RESERVE_SLICE_BYTES = 256 << 10  # a few blocks, or the inodes that XFS makes at once


class ObjectExists(Exception):
    """The name is taken. Internal to the repository: every caller decides what that means."""


class Lock(Protocol):
    """A held lock on an object; free again when every process that inherited ``fd`` is gone or closed it."""

    @property
    def fd(self) -> int: ...

    def close(self) -> None:
        """Give the lock up in this process. Idempotent."""


class ObjectStore(Protocol):
    """Write-once objects. Thread-safe; every method may raise :class:`RepositoryIoError`."""

    def create(self, name: str, data: Iterable[Buffer]) -> None:
        """Store the pieces of ``data`` under ``name``, written as they come; when this returns they are durable.

        Raises :class:`ObjectExists` if the name is taken, :class:`RepositoryFull`, :class:`RepositoryReadOnly`. After
        an error the object is absent, or (only if making the name durable failed) whole but perhaps not durable.
        """

    def create_locked(self, name: str, data: Iterable[Buffer]) -> Lock:
        """As :meth:`create`, with the object locked from the moment at which it can be seen."""

    def try_lock(self, name: str) -> Lock | None:
        """The lock on an object, or None if somebody else holds it. Raises :class:`ObjectMissing`."""

    def read(self, name: str, limit_bytes: int) -> bytes:
        """The whole object. Raises :class:`ObjectMissing`, :class:`RepositoryIoError` for one above the limit."""

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """``[offset, offset + length)`` of an object, shorter only at its end. Raises :class:`ObjectMissing`."""

    def read_into(self, name: str, offset: int, into: memoryview) -> int:
        """Fill ``into`` from ``offset`` on; how many bytes that were, fewer only at the end of the object.

        For many small reads: nothing is allocated. Raises :class:`ObjectMissing`.
        """

    def size(self, name: str) -> int:
        """Size in bytes. Raises :class:`ObjectMissing`."""

    def names(self, prefix: str) -> Iterator[str]:
        """Names of all objects below the folder ``prefix``, in no order.

        A folder that cannot be read raises; it never looks empty.
        """

    def remove(self, name: str) -> None:
        """Remove an object; one that is not there is fine. Only session records are ever removed by writers."""

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove many objects, durably when this returns; those that are not there are fine. Used by the collector."""

    def keep_reserve(self) -> bool:
        """Set space aside for a collector on a full disk, if there is plenty; whether it is there now. Idempotent."""

    def release_reserve(self) -> None:
        """Give the reserve's space to whoever writes next. Idempotent."""

    def spend_reserve(self) -> bool:
        """Give a sixteenth of the reserve to whoever writes next; False if there is nothing left of it."""

    def remove_leftovers(self) -> int:
        """Remove uploads that a dead writer began; how many. Never touches those of a living one."""

    def space(self) -> tuple[int, int]:
        """(total, free) bytes; free is what this process may use."""

    def network(self) -> str:
        """What makes the storage one that several hosts can use at once, such as "NFS"; "" if only this one can."""


class FileLock:
    """An flock; inherited by child processes with its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise ValueError("the lock was given up")
        return self._fd

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def exists(store: ObjectStore, name: str) -> bool:
    """Whether an object is there. Raises storage errors."""
    try:
        store.size(name)
    except ObjectMissing:
        return False
    return True


_NO_LEFTOVER = (FileNotFoundError, PermissionError)
"""Another had removed it before it was locked; or it has another name by now, and is immutable."""


class FileStore:
    """Objects as files below ``root``. Files are 0600, directories 0700; folders are made at creation, never later.

    An object is written to tmp/ under an flock, synced, linked to its name (which fails if the name exists), and
    the folder is synced. A failed write or fsync drops the file: it is never synced or used again.
    """

    def __init__(self, root: Path, system: System = os) -> None:
        self._root = root
        self._system = system

    def create(self, name: str, data: Iterable[Buffer]) -> None:
        self.create_locked(name, data).close()

    def create_locked(self, name: str, data: Iterable[Buffer]) -> Lock:
        return self._create(name, lambda fd: write_pieces(self._system, fd, data))

    def _create(self, name: str, fill: Callable[[int], None]) -> Lock:
        with self._translated("writing", name):
            temporary, fd = self._open_temporary()
            try:
                fill(fd)
                self._system.fsync(fd)
                try:
                    self._system.link(temporary, self._path(name))
                except FileExistsError:
                    raise ObjectExists(name) from None
                self._sync_folder(name)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._system.unlink(temporary)
                self._system.close(fd)
                raise
            with contextlib.suppress(OSError):  # the object is stored: what stays in tmp/ is cleared by recovery
                self._system.unlink(temporary)
            return FileLock(fd)

    def try_lock(self, name: str) -> Lock | None:
        with self._translated("locking", name):
            fd = _open_to_lock(self._path(name))
            if _flock(fd):
                return FileLock(fd)
            os.close(fd)
            return None

    def read(self, name: str, limit_bytes: int) -> bytes:
        data = self.read_range(name, 0, limit_bytes + 1)
        if len(data) > limit_bytes:
            raise RepositoryIoError(operation="reading", name=name, reason=f"it is larger than {limit_bytes} bytes")
        return data

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        with self._translated("reading", name):
            for _ in range(_ATTEMPTS):
                with _gone_meanwhile():
                    return self._read(name, offset, length)
            return self._read(name, offset, length)

    def read_into(self, name: str, offset: int, into: memoryview) -> int:
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return read_at(fd, offset, into)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._error("reading", name, error) from error

    def _read(self, name: str, offset: int, length: int) -> bytes:
        fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            # pread allocates what it is asked for, and a length may come from a damaged object.
            length = max(0, min(length, os.fstat(fd).st_size - offset))
            data = os.pread(fd, length, offset)
            while len(data) < length:
                more = os.pread(fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(fd)

    def size(self, name: str) -> int:
        with self._translated("reading", name):
            return Path(self._path(name)).stat().st_size

    def names(self, prefix: str) -> Iterator[str]:
        with self._translated("listing", prefix), os.scandir(self._path(prefix)) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for name, folder in entries:
            if name.startswith("."):
                continue  # no object's: NFS keeps what is removed while somebody has it open as ".nfs…"
            if folder:
                yield from self.names(f"{prefix}/{name}")
            else:
                yield f"{prefix}/{name}"

    def remove(self, name: str) -> None:
        with self._translated("removing", name):
            with contextlib.suppress(FileNotFoundError):
                self._system.unlink(self._path(name))
            self._sync_folder(name)

    def remove_all(self, names: Iterable[str]) -> None:
        folders: dict[str, str] = {}
        for name in names:
            with self._translated("removing", name), contextlib.suppress(FileNotFoundError):
                self._system.unlink(self._path(name))
            folders[name.rpartition("/")[0]] = name
        for name in folders.values():
            with self._translated("removing", name):
                self._sync_folder(name)

    def keep_reserve(self) -> bool:
        total, free = self.space()
        size = min(_RESERVE_BYTES, total // _RESERVE_PART)
        with contextlib.suppress(ObjectMissing):
            return self.size(RESERVE) > 0
        if free < _RESERVE_WHEN * size:
            return False
        try:
            self._create(RESERVE, lambda fd: os.posix_fallocate(fd, 0, size)).close()
        except ObjectExists:
            return True
        except RepositoryError:
            return False  # the space went to somebody else meanwhile; nothing depends on the reserve but comfort
        return True

    def release_reserve(self) -> None:
        self.remove(RESERVE)

    def spend_reserve(self) -> bool:
        try:
            fd = os.open(self._path(RESERVE), os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            size = os.fstat(fd).st_size
            os.ftruncate(fd, max(0, size - max(size // _RESERVE_SLICES, _RESERVE_SLICE_BYTES)))
            os.fsync(fd)  # some file systems give the space back only now
        except OSError:  # a full btrfs removes files, and shrinks none
            self.release_reserve()
        finally:
            os.close(fd)
        return size > 0

    def remove_leftovers(self) -> int:
        removed = 0
        for name in self.names(TMP):
            with contextlib.suppress(ObjectMissing):
                lock = self.try_lock(name)
                if lock is None:
                    continue  # a living writer
                with contextlib.closing(lock), self._translated("removing", name), contextlib.suppress(*_NO_LEFTOVER):
                    self._system.unlink(self._path(name))
                    removed += 1
        return removed

    def space(self) -> tuple[int, int]:
        with self._translated("asking for the space of", "the repository"):
            facts = os.statvfs(self._root)
        return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize

    def network(self) -> str:
        with self._translated("asking for the kind of", "the storage"):
            return network_file_system(self._root)

    def _open_temporary(self) -> tuple[str, int]:
        """A new locked file in tmp/. Recovery may take one between its creation and its lock: then another is made."""
        for _ in range(_ATTEMPTS):
            path = self._path(f"{TMP}/{secrets.token_hex(16)}")
            fd = self._system.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if _flock(fd) and os.fstat(fd).st_nlink:
                return path, fd
            self._system.close(fd)
        raise OSError(errno.EBUSY, "new temporary files are taken away at once")

    def _sync_folder(self, name: str) -> None:
        fd = self._system.open(str(Path(self._path(name)).parent), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._system.fsync(fd)
        finally:
            self._system.close(fd)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _translated(self, operation: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(operation, name, error) from error

    def _error(self, operation: str, name: str, error: OSError) -> RepositoryError:
        reason = error.strerror or str(error)
        reads = operation in ("reading", "listing", "locking")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return RepositoryFull(path=str(self._root))
        if error.errno == errno.ENOENT and reads:
            return ObjectMissing(name=name)
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            if reads:
                return RepositoryDenied(path=str(self._root), reason=f"{operation} {name}: {reason}")
            return RepositoryReadOnly(path=str(self._root), reason=reason)
        return RepositoryIoError(operation=operation, name=name, reason=reason)


@contextlib.contextmanager
def _gone_meanwhile() -> Iterator[None]:
    """On NFS a file that is removed while it is read has a stale handle; to open it again tells whether it is gone."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise


def _open_to_lock(path: str) -> int:
    """NFS gives the lock to a descriptor only that could write; read-only storage has none to give of that kind."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
