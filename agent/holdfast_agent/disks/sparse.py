"""Holes of files: made, and found again."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from .disk import DiskExtent

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_KEEP_SIZE = 0x01  # FALLOC_FL_KEEP_SIZE
_ZERO_RANGE = 0x10 | 0x01  # FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
_UNKNOWN = (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.ENOSYS)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make a range read as zeros and give its space back; False where the storage cannot. Raises OSError."""
    return _fallocate(fd, _PUNCH_HOLE, offset, length)


def reserve_zeros(fd: int, offset: int, length: int) -> bool:
    """Make a range read as zeros, with space of its own; False where the storage cannot but by writing them. Raises
    OSError."""
    return _fallocate(fd, _ZERO_RANGE, offset, length)


def reserve(fd: int, offset: int, length: int) -> bool:
    """Give holes in a range space of their own, which reads as zeros still; False where the storage cannot. Raises
    OSError."""
    return _fallocate(fd, _KEEP_SIZE, offset, length)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    if _libc().fallocate(fd, mode, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number))


def extents_of(fd: int, start: int, end: int) -> Iterator[DiskExtent]:
    """``[start, end)`` of an open file by SEEK_DATA and SEEK_HOLE, ascending; one extent of data where the file system
    does not know them, or for a device. What the file is too short for is a hole. Raises OSError."""
    while start < end:
        data = _seek(fd, start, end, os.SEEK_DATA)
        if data > start:
            yield DiskExtent(start, data - start, data=False)
        start = max(_seek(fd, data, end, os.SEEK_HOLE), data + 1) if data < end else data
        if start > data:
            yield DiskExtent(data, start - data, data=True)


def _seek(fd: int, position: int, end: int, whence: int) -> int:
    try:
        return min(os.lseek(fd, position, whence), end)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no more data
            return end
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # not known here: all is data, no hole follows
            return position if whence == os.SEEK_DATA else end
        raise


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return libc
