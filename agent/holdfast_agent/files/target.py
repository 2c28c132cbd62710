"""Where fetched files are written: a folder of this host, by what a stranger says and never outside of it.

Names are looked up one by one from open descriptors, and links are not followed. Everything is written below a folder
of its own that nobody else may enter, and moved to its names when all of it is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from pathlib import Path, PurePosixPath

from holdfast_agent.descriptors import write_at
from holdfast_agent.disks.places import explain, open_allowed
from holdfast_agent.errors import AlreadyExists, DiskUnwritable, MalformedMessage, UsageError
from holdfast_agent.wire.files import FetchFiles, FileEntry, FileKind
from holdfast_agent.wire.movers import MoverHost

from .attributes import DEFAULT
from .dress import Complain, Dresser

_PREFIX, _SUFFIX = b".holdfast-", b".partial"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_DEPTH = 200
_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class Target:
    """One thread. Ends with :meth:`finish` or :meth:`abort`; what it met on its way is told to ``complain``."""

    def __init__(self, wish: FetchFiles, host: MoverHost, complain: Complain) -> None:
        """Raises :class:`AlreadyExists`, :class:`UsageError`, :class:`DiskError`."""
        self.files = self.folders = self.links = 0
        self.file_bytes = 0
        self._wish = wish
        self._complain = complain
        self._dresser = Dresser(wish.setuid, complain)
        self._made = False
        self._fd = self._open(host)
        self._file: tuple[FileEntry, int] | None = None
        self._stack: list[tuple[bytes, FileEntry | None, int]] = []
        self._staging = _PREFIX + secrets.token_hex(6).encode() + _SUFFIX
        try:
            self._check_names()
            self._remove_forgotten()
            os.mkdir(self._staging, 0o700, dir_fd=self._fd)
            self._stack.append((b"", None, os.open(self._staging, _FOLDER, dir_fd=self._fd)))
            fcntl.flock(self._stack[0][2], fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                os.removexattr(self._stack[0][2], DEFAULT)  # what is restored inherits nothing from where it is put
        except OSError as error:
            self.abort()
            raise self._unwritable(error) from error
        except BaseException:
            self.abort()
            raise

    def found(self, entry: FileEntry, same_as: bytes) -> None:
        """Make a folder, a link or an empty file. Raises :class:`MalformedMessage`, :class:`DiskUnwritable`."""
        self.drop()
        names = _names(entry.path)
        if len(names) > _MOST_DEPTH:
            self._complain(entry.path, "it lies too deep")
            return
        try:
            folder = self._folder(names[:-1])
            if folder is None:
                self._complain(entry.path, "the folder that it is in could not be made")
            elif same_as:
                self._link_again(_names(same_as), folder, names[-1])
            else:
                self._make(entry, folder, names[-1])
        except OSError as error:
            self._judge(entry.path, error)

    def data(self, offset: int, data: bytes) -> None:
        """Raises as :meth:`found`."""
        if self._file is None:
            return  # it could not be made
        entry, fd = self._file
        if offset + len(data) > entry.size:
            raise MalformedMessage(peer="the reader of file systems", reason="content beyond the end of a file")
        try:
            write_at(fd, offset, data)
        except OSError as error:
            raise self._unwritable(error) from error
        self.file_bytes += len(data)

    def complete(self) -> None:
        """The content of the last file has come. Raises as :meth:`found`."""
        if self._file is None:
            return
        entry, fd = self._file
        try:
            os.ftruncate(fd, entry.size)
            self._dresser.dress(entry, fd)
        except OSError as error:
            self._judge(entry.path, error)
            self.drop()
            return
        self._file = None
        os.close(fd)
        self.files += 1

    def drop(self) -> None:
        """The last file never became whole: half of one is worse than none. Never raises."""
        if self._file is not None:
            entry, fd = self._file
            self._file = None
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(_names(entry.path)[-1], dir_fd=self._stack[-1][2])

    def finish(self) -> None:
        """Give everything its name. Raises :class:`AlreadyExists`, :class:`DiskUnwritable`."""
        self.drop()
        try:
            self._leave(1)
            staging = self._stack[0][2]
            ctypes.CDLL(None).syncfs(staging)
            for name in _listed(staging):
                self._publish(name)
            os.fsync(self._fd)
        except OSError as error:
            self.abort()
            raise self._unwritable(error) from error
        except BaseException:
            self.abort()
            raise
        self._made = False
        self.abort()

    def abort(self) -> None:
        """Remove what has no name yet. Idempotent, never raises."""
        self.drop()
        for _, _, fd in self._stack:
            os.close(fd)
        self._stack.clear()
        if self._fd >= 0:
            shutil.rmtree(self._staging, ignore_errors=True, dir_fd=self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._made:
            with contextlib.suppress(OSError):
                Path(self._wish.target).rmdir()
            self._made = False

    def _open(self, host: MoverHost) -> int:
        path = PurePosixPath(self._wish.target)
        if not path.is_absolute() or ".." in path.parts or not path.name:
            raise UsageError(reason=f"the target {self._wish.target!r} is no absolute path of a folder")
        parent = open_allowed(str(path.parent), os.O_RDONLY | os.O_DIRECTORY, str(path), host)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path.name, 0o700, dir_fd=parent)
                self._made = True
        except OSError as error:
            raise explain(error, str(path), host) from error
        finally:
            os.close(parent)
        return open_allowed(str(path), os.O_RDONLY | os.O_DIRECTORY, str(path), host)

    def _check_names(self) -> None:
        names = [path.rstrip(b"/").rpartition(b"/")[2] for path in self._wish.paths]
        for name in names:
            if name and names.count(name) > 1:
                raise UsageError(
                    reason=f"several of the paths end in {_shown(name)!r}; fetch them into different folders"
                )
            if name and not self._wish.overwrite and self._is_there(name):
                raise AlreadyExists(kind="file", name=f"{self._wish.target}/{_shown(name)}")

    def _is_there(self, name: bytes) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            return True
        return False

    def _remove_forgotten(self) -> None:
        """What killed restores left here: the kernel freed their locks."""
        for name in _listed(self._fd):
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    fd = os.open(name, _FOLDER, dir_fd=self._fd)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(name, ignore_errors=True, dir_fd=self._fd)
                    finally:
                        os.close(fd)

    def _folder(self, names: list[bytes]) -> int | None:
        """The descriptor of a folder that was told before; None if it could not be made."""
        common = 0
        while common < min(len(names), len(self._stack) - 1) and self._stack[common + 1][0] == names[common]:
            common += 1
        self._leave(common + 1)
        for name in names[common:]:
            try:
                fd = os.open(name, _FOLDER, dir_fd=self._stack[-1][2])
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    return None
                raise
            self._stack.append((name, None, fd))
        return self._stack[-1][2]

    def _leave(self, depth: int) -> None:
        """Close folders down to so many open ones. What is in them is there now, so they get their own times."""
        while len(self._stack) > depth:
            _, entry, fd = self._stack.pop()
            try:
                if entry is not None:
                    self._dresser.dress(entry, fd)
            finally:
                os.close(fd)

    def _make(self, entry: FileEntry, folder: int, name: bytes) -> None:
        match entry.kind:
            case FileKind.FOLDER:
                os.mkdir(name, 0o700, dir_fd=folder)
                self._stack.append((name, entry, os.open(name, _FOLDER, dir_fd=folder)))
                self.folders += 1
            case FileKind.FILE:
                self._file = (entry, os.open(name, _NEW_FILE, 0o600, dir_fd=folder))
            case FileKind.LINK:
                os.symlink(entry.target, name, dir_fd=folder)
                self._dresser.dress_link(entry, folder, name)
                self.links += 1
            case FileKind.OTHER:
                self._complain(entry.path, "devices, pipes and sockets are not restored")

    def _link_again(self, names: list[bytes], folder: int, name: bytes) -> None:
        source = os.dup(self._stack[0][2])
        try:
            for each in names[:-1]:
                following = os.open(each, _FOLDER, dir_fd=source)
                os.close(source)
                source = following
            os.link(names[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)
        self.files += 1

    def _publish(self, name: bytes) -> None:
        staging = self._stack[0][2]
        try:
            _rename(staging, name, self._fd, _NOREPLACE)
        except FileExistsError as error:
            if not self._wish.overwrite:
                raise AlreadyExists(kind="file", name=f"{self._wish.target}/{_shown(name)}") from error
            _rename(staging, name, self._fd, _EXCHANGE)

    def _judge(self, path: bytes, error: OSError) -> None:
        """What becomes of one file that could not be made as it should be: only a full or failing disk ends all."""
        if error.errno in _FATAL:
            raise self._unwritable(error) from error
        self._complain(path, error.strerror or str(error))

    def _unwritable(self, error: OSError) -> DiskUnwritable:
        reason = error.strerror or str(error)
        return DiskUnwritable(url=self._wish.target, offset_bytes=0, length_bytes=0, reason=reason)


def _names(path: bytes) -> list[bytes]:
    names = path.split(b"/")
    if not all(0 < len(name) <= 255 and name not in (b".", b"..") and b"\0" not in name for name in names):
        raise MalformedMessage(peer="the reader of file systems", reason="a path that leads elsewhere")
    return names


def _listed(folder: int) -> list[bytes]:
    with os.scandir(folder) as entries:
        return [os.fsencode(entry.name) for entry in entries]


def _rename(old_folder: int, name: bytes, new_folder: int, flags: int) -> None:
    """renameat2(2), which Python does not have."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(old_folder, name, new_folder, name, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(name))


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
