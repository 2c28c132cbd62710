"""New images in QEMU's formats as restore targets, made and written by QEMU's own tools."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import subprocess
from pathlib import PurePosixPath

import msgspec

from holdfast_agent.errors import DiskError, DiskExists, DiskUnwritable
from holdfast_agent.model.disk_url import DiskUrl, parse_disk_url
from holdfast_agent.wire.movers import MoverHost

from .image import ImageTarget
from .places import open_folder_of, real_path
from .private_server import environment, tool

_CREATE_S = 60.0
_DESCRIPTOR_BYTES = 20 * 512
_OPTIONS = {"vpc": ("-o", "force_size=on")}  # else its size would be rounded up to a geometry


class NewImageTarget:
    """A new image, which reads as zeros where nothing was written. Open it in the main thread, as an ``ImageTarget``.

    It is written as ``.NAME.RANDOM.partial``, under a lock that ends with this process: what a killed one left is
    removed by the next restore to the same name.
    """

    def __init__(self, url: DiskUrl, host: MoverHost, size_bytes: int, *, overwrite: bool) -> None:
        """Raises :class:`DiskExists`, :class:`DiskDenied`, :class:`DiskUnwritable`, :class:`ToolMissing`."""
        path = PurePosixPath(url.path)
        self.url = str(url)
        self._name, self._overwrite = path.name, overwrite
        self._folder = open_folder_of(path, self.url, host)
        self._partial = f"{self._prefix}{secrets.token_hex(6)}.partial"
        self._lock = -1
        self._target: ImageTarget | None = None
        try:
            if not overwrite and self._taken():
                raise DiskExists(url=self.url)
            self._remove_forgotten()
            self._create(host, url.option("format", "qcow2"), size_bytes)
            place = f"{real_path(self._folder)}/{self._partial}"
            self._target = ImageTarget(msgspec.structs.replace(url, path=place), host, size_bytes)
        except BaseException:
            self.abort()
            raise

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert self._target is not None  # noqa: S101 - opened by the constructor
        self._target.write(offset, data)

    def write_zeros(self, offset: int, length: int) -> None:
        """Nothing to do: the image began as zeros, and no block is written twice."""

    def finish(self) -> None:
        assert self._target is not None  # noqa: S101 - opened by the constructor
        try:
            self._target.finish()
            self._name_inside()
            self._publish()
        except DiskError:
            self.abort()
            raise
        self._close()

    def abort(self) -> None:
        if self._target is not None:
            self._target.abort()
        if self._folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._partial, dir_fd=self._folder)
        self._close()

    @property
    def _prefix(self) -> str:
        return f".{self._name[:200]}."

    def _create(self, host: MoverHost, image_format: str, size_bytes: int) -> None:
        command = [tool("qemu-img", host, "qemu-utils"), "create", "-q", "-f", image_format]
        place = f"/proc/self/fd/{self._folder}/{self._partial}"
        command += [*_OPTIONS.get(image_format, ()), "--", place, str(size_bytes)]
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._lock = os.open(self._partial, flags, 0o600, dir_fd=self._folder)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            subprocess.run(
                command, check=True, capture_output=True, timeout=_CREATE_S, env=environment(), pass_fds=(self._folder,)
            )
        except subprocess.CalledProcessError as error:
            raise self._unwritable(error.stderr.decode(errors="replace").strip()) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._unwritable(str(error)) from error

    def _remove_forgotten(self) -> None:
        with os.scandir(self._folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(self._prefix)]
        for name in names:
            if not name.endswith(".partial"):
                continue
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=self._folder)
                finally:
                    os.close(fd)

    def _name_inside(self) -> None:
        """A VMDK names itself in its descriptor, which lies in its second to 21st sector."""
        if parse_disk_url(self.url).option("format") != "vmdk":
            return
        text = os.pread(self._lock, _DESCRIPTOR_BYTES, 512)
        named = text.replace(f'"{self._partial}"'.encode(), f'"{self._name}"'.encode())
        os.pwrite(self._lock, named.ljust(len(text), b"\0"), 512)

    def _publish(self) -> None:
        try:
            os.fsync(self._lock)
            if self._overwrite:
                os.rename(self._partial, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            else:
                os.link(self._partial, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                os.unlink(self._partial, dir_fd=self._folder)
            os.fsync(self._folder)
        except FileExistsError as error:
            raise DiskExists(url=self.url) from error
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error

    def _taken(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            return True
        return False

    def _close(self) -> None:
        for fd in (self._lock, self._folder):
            if fd >= 0:
                os.close(fd)
        self._lock = self._folder = -1

    def _unwritable(self, reason: str) -> DiskUnwritable:
        return DiskUnwritable(url=self.url, offset_bytes=0, length_bytes=0, reason=reason)
