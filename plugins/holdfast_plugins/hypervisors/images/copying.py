"""Freezing one file: by a clone of the file system, or by a copy that keeps holes."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from holdfast_agent.model.units import MIB

_FICLONE = 0x40049409
"""_IOW(0x94, 9, int), from linux/fs.h."""
_CANNOT_CLONE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS})
_CANNOT_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
_CHUNK_BYTES = 64 * MIB


class CannotClone(Exception):
    """The file system cannot clone this file to that place; a copy may do."""


def clone(source: int, target: int) -> None:
    """Make the empty file ``target`` share all data of ``source``, atomically against writers.

    Raises :class:`CannotClone`, or ``OSError`` for anything else (no space, no permission).
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_CLONE:
            raise CannotClone(os.strerror(error.errno)) from error
        raise


def copy_sparse(source: int, target: int) -> None:
    """Copy all data of ``source`` into the empty file ``target``; holes stay holes."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        position = min(os.lseek(source, start, os.SEEK_HOLE), size)
        _copy_range(source, target, start, position)


def create_like(source: int, path: Path) -> int:
    """Create the file ``path`` for a frozen copy, readable by no more people than ``source``. Returns a descriptor."""
    status = os.fstat(source)
    target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        take_over_owner(target, status)
    except BaseException:
        os.close(target)
        raise
    return target


def take_over_owner(target: int, status: os.stat_result) -> None:
    """Give ``target`` the owner and mode in ``status``, so that an agent may read the copy as it may the original.

    Without the privilege to change the owner, group and others get nothing that their members did not have before.
    """
    mine = os.fstat(target)
    mode = status.st_mode & 0o777
    if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.fchown(target, status.st_uid, status.st_gid)
        except PermissionError:
            mode &= 0o700 if mine.st_gid != status.st_gid else 0o770
    os.fchmod(target, mode)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            count = os.copy_file_range(source, target, min(end - start, _CHUNK_BYTES), start, start)
        except OSError as error:
            if error.errno not in _CANNOT_COPY_RANGE:
                raise
            count = _copy_by_hand(source, target, start, min(end - start, MIB))
        if count == 0:
            return  # the file was cut meanwhile, which the comparison before and after will tell
        start += count


def _copy_by_hand(source: int, target: int, start: int, length: int) -> int:
    data = memoryview(os.pread(source, length, start))
    written = 0
    while written < len(data):
        written += os.pwrite(target, data[written:], start + written)
    return written
