"""Numbers of NFS 3 and MOUNT 3 (RFC 1813), and of the portmapper 2 (RFC 1833)."""

from __future__ import annotations

from enum import IntEnum

NFS, MOUNT, PORTMAPPER = 100003, 100005, 100000
NFS_VERSION, MOUNT_VERSION, PORTMAPPER_VERSION = 3, 3, 2
PORTMAPPER_PORT = 111
TCP = 6

MOST_HANDLE_BYTES = 64
MOST_NAME_BYTES = 255
MOST_PATH_BYTES = 1024
MOST_IO_BYTES = 1 << 20
"""Of one READ or WRITE."""


class Status(IntEnum):
    OK = 0
    NOENT = 2
    IO = 5
    ACCES = 13
    EXIST = 17
    NOTDIR = 20
    ISDIR = 21
    INVAL = 22
    FBIG = 27
    NOSPC = 28
    NAMETOOLONG = 63
    NOTEMPTY = 66
    STALE = 70
    BADHANDLE = 10001
    NOT_SYNC = 10002
    BAD_COOKIE = 10003
    NOTSUPP = 10004
    TOOSMALL = 10005
    SERVERFAULT = 10006


class Procedure(IntEnum):
    NULL = 0
    GETATTR = 1
    SETATTR = 2
    LOOKUP = 3
    ACCESS = 4
    READLINK = 5
    READ = 6
    WRITE = 7
    CREATE = 8
    MKDIR = 9
    SYMLINK = 10
    MKNOD = 11
    REMOVE = 12
    RMDIR = 13
    RENAME = 14
    LINK = 15
    READDIR = 16
    READDIRPLUS = 17
    FSSTAT = 18
    FSINFO = 19
    PATHCONF = 20
    COMMIT = 21


class Kind(IntEnum):
    """ftype3."""

    FILE = 1
    FOLDER = 2


class Stable(IntEnum):
    """How durable a WRITE is when it is answered."""

    UNSTABLE = 0
    DATA_SYNC = 1
    FILE_SYNC = 2


class Create(IntEnum):
    UNCHECKED = 0
    GUARDED = 1
    EXCLUSIVE = 2


class Refusal(Exception):
    """The procedure ends with this status."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(status.name)
