"""Whether another process has an image open for writing, and keeping QEMU from opening it so.

QEMU holds open-file-description locks on single bytes of an image: on 100 + n for each permission n that it uses, on
200 + n for each that it does not share with others (block/file-posix.c; 1 is writing, 3 resizing). It takes its own
locks before it looks for those of others. Cloud Hypervisor and others lock the whole file for writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

_FLOCK = "hhqqi4x"
"""struct flock on 64-bit Linux: type, whence, start, length, pid."""
_QEMU_WRITES, _QEMU_RESIZES = 101, 103
_NO_WRITING_BESIDE, _NO_RESIZING_BESIDE = 201, 203
_WHOLE_FILE = (0, 0)
_NO_LOCKS_HERE = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""A file system without locks, such as NFS mounted with ``nolock``."""


def written_by_others(path: Path) -> bool:
    """True when somebody holds a lock that says "I write to this". False proves nothing: not everybody locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return (
            _conflicts(descriptor, fcntl.F_RDLCK, *_WHOLE_FILE)
            or _conflicts(descriptor, fcntl.F_WRLCK, _QEMU_WRITES, 1)
            or _conflicts(descriptor, fcntl.F_WRLCK, _QEMU_RESIZES, 1)
        )
    finally:
        os.close(descriptor)


class ImageKept:
    """An image that QEMU cannot open for writing until :meth:`release`, or until this process ends, however it ends.

    A virtual machine that wants to start meanwhile is refused by its own QEMU ("Failed to get shared write lock").
    """

    def __init__(self, path: Path) -> None:
        """Raises ``BlockingIOError`` when somebody writes to the image now, or has locked it; ``OSError``."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for byte in (_NO_WRITING_BESIDE, _NO_RESIZING_BESIDE):
                lock = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, lock)
            for byte in (_QEMU_WRITES, _QEMU_RESIZES):
                if _conflicts(self._descriptor, fcntl.F_WRLCK, byte, 1):
                    raise BlockingIOError(errno.EAGAIN, "a running QEMU writes to it", str(path))
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def stamp(self) -> str:
        """Changes whenever the image is written to or replaced: the kernel sets the time of change, nobody else can.

        Empty for what is no file: a block device does not tell when it was written to.
        """
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            return ""
        return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"

    def release(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _conflicts(descriptor: int, kind: int, start: int, length: int) -> bool:
    """Whether a lock of ``kind`` would meet another's. Only asks; nothing is locked even for an instant."""
    question = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question)
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            return False
        raise
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
