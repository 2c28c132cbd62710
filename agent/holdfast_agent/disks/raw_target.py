"""Raw files and block devices as restore targets."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import PurePosixPath

from holdfast_agent.descriptors import write_at
from holdfast_agent.errors import DiskError, DiskExists, DiskUnwritable, UsageError
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .direct import DirectWriter
from .places import check_kind, explain, open_folder_of
from .raw import RawDisk, appearing
from .sparse import punch_hole, reserve

_ZEROS = bytes(1 << 20)


class _RawTarget:
    """Writes at offsets of an open descriptor; what is common to new files and existing disks."""

    def __init__(self, url: DiskUrl, fd: int) -> None:
        self.url = str(url)
        self._fd = fd
        self._direct = DirectWriter(fd)
        self._may_punch = True

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            done = self._direct.write(offset, view)
            write_at(self._fd, offset + done, view[done:])
        except OSError as error:
            raise self._unwritable(offset, len(view), error) from error

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._unwritable(0, 0, error) from error

    def _unwritable(self, offset: int, length: int, error: OSError) -> DiskUnwritable:
        return DiskUnwritable(
            url=self.url, offset_bytes=offset, length_bytes=length, reason=os.strerror(error.errno or errno.EIO)
        )

    def _close(self) -> None:
        self._direct.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ExistingTarget(_RawTarget):
    """A disk that is there already and is overwritten in place, zeros included.

    A block device is opened exclusively, which the kernel refuses while it is mounted or part of something.
    """

    def __init__(self, url: DiskUrl, host: MoverHost, size_bytes: int) -> None:
        device = url.scheme is DiskScheme.BLOCK
        fd = appearing(url, host, os.O_RDWR | (os.O_EXCL if device else 0))
        try:
            check_kind(fd, str(url), host, device=device)
            found = os.lseek(fd, 0, os.SEEK_END)
            if found < size_bytes:
                raise UsageError(reason=f"{url} has {found} bytes; the restore needs {size_bytes}")
            self.now = RawDisk(url, os.dup(fd))
        except BaseException:
            os.close(fd)
            raise
        super().__init__(url, fd)

    def write_zeros(self, offset: int, length: int) -> None:
        while length > 0:
            step = min(length, 1 << 30)  # so that a stop is noticed between two calls
            if not self._punch(offset, step):
                step = min(length, len(_ZEROS))
                self.write(offset, memoryview(_ZEROS)[:step])
            offset += step
            length -= step

    def finish(self) -> None:
        try:
            self._sync()
        finally:
            self._close()

    def abort(self) -> None:
        self._close()

    def _close(self) -> None:
        super()._close()
        self.now.close()

    def _punch(self, offset: int, length: int) -> bool:
        if not self._may_punch:
            return False
        try:
            self._may_punch = punch_hole(self._fd, offset, length)
        except OSError as error:
            raise self._unwritable(offset, length, error) from error
        return self._may_punch


class NewFileTarget(_RawTarget):
    """A new sparse file. It has no name until it is whole (O_TMPFILE), so even kill -9 leaves nothing behind.

    Where the file system knows no unnamed files it is written as ``.<name>.<random>.partial``.
    """

    def __init__(self, url: DiskUrl, host: MoverHost, size_bytes: int, *, overwrite: bool) -> None:
        path = PurePosixPath(url.path)
        self._name = path.name
        self._overwrite = overwrite
        self._partial = ""
        self._folder = open_folder_of(path, str(url), host)
        try:
            if not overwrite and self._taken():
                raise DiskExists(url=str(url))
            try:
                super().__init__(url, self._create())
            except OSError as error:
                raise explain(error, str(url), host) from error
        except BaseException:
            os.close(self._folder)
            raise
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            self.abort()
            raise self._unwritable(0, size_bytes, error) from error

    def write_zeros(self, offset: int, length: int) -> None:
        """Nothing to do: the file began as one hole, and no block is written twice."""

    def reserve(self, offset: int, length: int) -> None:
        """Writes into a hole that go past the page cache make the file system look for space at each of them: half as
        fast on ext4 as into space that is there."""
        try:
            reserve(self._fd, offset, length)
        except OSError as error:
            raise self._unwritable(offset, length, error) from error

    def finish(self) -> None:
        try:
            self._sync()
            try:
                self._link()
                os.fsync(self._folder)
            except FileExistsError as error:
                raise DiskExists(url=self.url) from error
            except OSError as error:
                raise self._unwritable(0, 0, error) from error
        except DiskError:
            self.abort()
            raise
        self._close()

    def abort(self) -> None:
        if self._partial:
            with contextlib.suppress(OSError):
                os.unlink(self._partial, dir_fd=self._folder)
            self._partial = ""
        self._close()

    def _close(self) -> None:
        super()._close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _taken(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            return True
        return False

    def _create(self) -> int:
        try:
            return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        name = self._partial_name()
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        self._partial = name
        return fd

    def _partial_name(self) -> str:
        return f".{self._name[:200]}.{secrets.token_hex(6)}.partial"

    def _link(self) -> None:
        """Give the file its name: never over an existing one unless asked to, then atomically."""
        if not self._partial and not self._overwrite:
            # follow_symlinks=True makes this linkat(AT_SYMLINK_FOLLOW) on the descriptor's own entry in /proc.
            os.link(f"/proc/self/fd/{self._fd}", self._name, dst_dir_fd=self._folder, follow_symlinks=True)
            return
        if not self._partial:
            name = self._partial_name()
            os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=self._folder, follow_symlinks=True)
            self._partial = name
        if self._overwrite:
            os.rename(self._partial, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        else:
            os.link(self._partial, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.unlink(self._partial, dir_fd=self._folder)
        self._partial = ""
