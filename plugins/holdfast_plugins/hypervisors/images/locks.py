"""Whether another process has an image open for writing.

QEMU holds open-file-description locks on single bytes of an image: on 100 + n for each permission n that it uses
(block/file-posix.c; 1 is writing, 3 resizing). Cloud Hypervisor and others lock the whole file for writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

_FLOCK = "hhqqi4x"
"""struct flock on 64-bit Linux: type, whence, start, length, pid."""
_QEMU_WRITES, _QEMU_RESIZES = 101, 103
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
