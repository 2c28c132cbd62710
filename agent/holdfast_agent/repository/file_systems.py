"""Which file system a path lies on, as the kernel tells it by statfs(2); Python's ``os`` leaves its type out."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NETWORK = {
    0x00006969: "NFS",
    0xFF534D42: "SMB (cifs)",
    0xFE534D42: "SMB (smb2)",
    0x0000517B: "SMB (smbfs)",
    0x00C36400: "Ceph",
    0x01021997: "9p",
    0x01161970: "GFS2",
    0x7461636F: "OCFS2",
    0x0BD00BD0: "Lustre",
    0x5346414F: "AFS",
    0x65735546: "FUSE",  # GlusterFS, sshfs, virtiofs; a local one is taken for them, and loses nothing by it
}
_STATFS_BYTES = 1024  # the largest struct statfs has some 120


def file_system_type(path: Path) -> int:
    """The magic number of the file system that ``path`` lies on, 32 bits. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    facts = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(os.fsencode(path), facts) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    # f_type comes first, as an int or a little-endian long, sign-extended or not: its low half is the number.
    return ctypes.c_uint32.from_buffer(facts).value


def network_file_system(path: Path) -> str:
    """The name of the file system if several hosts may have it mounted at once, else "". Raises OSError."""
    return _NETWORK.get(file_system_type(path), "")
