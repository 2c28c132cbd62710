"""The attribute ``i`` of a file (chattr +i): it cannot be removed, renamed, linked or written, by its owner neither.

Setting and clearing it takes CAP_LINUX_IMMUTABLE, and CAP_FOWNER for files of others. ext4, XFS and btrfs have it.
"""

from __future__ import annotations

import errno
import fcntl
import struct

_GET, _SET = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS and FS_IOC_SETFLAGS on 64 bits
_IMMUTABLE = 0x10
_FLAGS = struct.Struct("i4x")  # the number says long; the kernel reads and writes an int
_UNSUPPORTED = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class AttributesUnsupported(OSError):
    """The file system has no such attribute."""


def is_immutable(fd: int) -> bool:
    """Raises :class:`AttributesUnsupported`, OSError."""
    return bool(_get(fd) & _IMMUTABLE)


def set_immutable(fd: int, immutable: bool) -> bool:
    """Whether anything was changed. Durable once the file is synced. Raises as :func:`is_immutable`."""
    flags = _get(fd)
    wanted = flags | _IMMUTABLE if immutable else flags & ~_IMMUTABLE
    if wanted == flags:
        return False
    _call(fd, _SET, _FLAGS.pack(wanted))
    return True


def _get(fd: int) -> int:
    flags: int = _FLAGS.unpack(_call(fd, _GET, bytes(_FLAGS.size)))[0]
    return flags


def _call(fd: int, request: int, argument: bytes) -> bytes:
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise AttributesUnsupported(error.errno, error.strerror) from error
        raise
