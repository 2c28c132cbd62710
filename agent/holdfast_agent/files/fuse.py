"""A FUSE mount without a library: the kernel's protocol, as far as a file system that never changes needs it.

Protocol facts: include/uapi/linux/fuse.h. Mounting is fusermount3's, which may do so for every user and unmounts what
is left when we die (its ``auto_unmount``: it watches the socket over which it gave us the descriptor).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import subprocess
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from holdfast_agent.errors import Denied, ToolMissing, UsageError

ROOT = 1
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_REQUEST_BYTES = (128 << 10) + 4096
_MINOR = 31
_OPTIONS = "ro,nosuid,nodev,noexec,auto_unmount,fsname=holdfast,subtype=holdfast"
_TO_OTHERS = ",allow_other,default_permissions"
_POSIX_ACL = 1 << 20  # FUSE_POSIX_ACL: the kernel asks for access lists and goes by them
_MOUNT_S = 20.0
_REFUSED = "fusermount3 refuses. The agent's user must own the folder, and its systemd unit gives up the right to mount"
_REFUSED_TO_OTHERS = "; so that others may look, /etc/fuse.conf must have the line user_allow_other"
_VALID_S = 3600
"""For so long the kernel need not ask again: a restore point never changes."""


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    GETXATTR = 22
    LISTXATTR = 23
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})


class Call(NamedTuple):
    """One request of the kernel's. ``node``: the number that it was given by a look-up."""

    opcode: int
    unique: int
    node: int
    body: bytes


class Attributes(NamedTuple):
    node: int
    size: int
    mtime_ns: int
    mode: int
    uid: int
    gid: int

    def pack(self) -> bytes:
        seconds, rest = divmod(max(0, self.mtime_ns), 10**9)
        seconds = min(seconds, 2**63 - 1)
        return _ATTRIBUTES.pack(
            self.node, self.size, -(-self.size // 512), seconds, seconds, seconds, rest, rest, rest,
            self.mode, 1, self.uid & 0xFFFFFFFF, self.gid & 0xFFFFFFFF, 0, 4096, 0,
        )  # fmt: skip


class Mounted:
    """A mount at a folder. ``fd``: to wait on for calls. One thread.

    ``to_others``: other users see it too, each what the owners, modes and access lists of the files let him see.
    """

    def __init__(self, folder: str, host: str, *, to_others: bool = False) -> None:
        """Raises :class:`ToolMissing`, :class:`Denied` where this host has no FUSE, :class:`UsageError`."""
        tool = shutil.which("fusermount3")
        if tool is None:
            raise ToolMissing(tool="fusermount3", host=host, package="fuse3")
        if not Path("/dev/fuse").exists():
            raise Denied(reason=f"{host} has no /dev/fuse: load the kernel's module there (modprobe fuse)")
        self._to_others = to_others
        self._held, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                self.fd = self._mount(tool, folder, theirs)
        except BaseException:
            self._held.close()
            raise

    def _mount(self, tool: str, folder: str, theirs: socket.socket) -> int:
        options = _OPTIONS + (_TO_OTHERS if self._to_others else "")
        environment = {"PATH": os.environ.get("PATH", os.defpath), "_FUSE_COMMFD": str(theirs.fileno())}
        # Of a session of its own: it must outlive whatever ends us.
        self._watcher = subprocess.Popen(
            [tool, "-o", options, "--", folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()], start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._held.settimeout(_MOUNT_S)
        descriptors: list[int] = []
        with contextlib.suppress(OSError):
            _, descriptors, _, _ = socket.recv_fds(self._held, 1, 1)
        if not descriptors:
            self._watcher.kill()
            self._watcher.wait()
            why = _REFUSED + (_REFUSED_TO_OTHERS if self._to_others else "")
            raise UsageError(reason=f"{folder} cannot be mounted: {why}")
        os.set_blocking(descriptors[0], False)
        return descriptors[0]

    def call(self) -> Call | None:
        """The next call, if there is one. Raises OSError: ENODEV when it was unmounted."""
        try:
            request = os.read(self.fd, _REQUEST_BYTES)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                return None  # (ENOENT: it was interrupted before we read it)
            raise
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        return Call(opcode, unique, node, request[_IN.size :])

    def reply(self, call: Call, body: bytes = b"") -> None:
        self._send(call, 0, body)

    def refuse(self, call: Call, number: int) -> None:
        """With an errno."""
        self._send(call, -number, b"")

    def _send(self, call: Call, error: int, body: bytes) -> None:
        try:
            os.write(self.fd, _OUT.pack(_OUT.size + len(body), error, call.unique) + body)
        except OSError as problem:
            if problem.errno != errno.ENOENT:  # whoever asked is gone
                raise

    def close(self) -> None:
        """Unmount, even where somebody is in it. Never raises."""
        os.close(self.fd)
        self._held.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watcher.wait(_MOUNT_S)


def init_reply(body: bytes, *, to_others: bool) -> bytes:
    """What we speak; to others by access lists. Raises :class:`Denied` for a kernel that speaks something else."""
    major, minor, readahead, offered = struct.unpack_from("<IIII", body)
    if major != 7:
        raise Denied(reason=f"this kernel speaks version {major} of FUSE")
    flags = offered & _POSIX_ACL if to_others else 0
    return struct.pack("<IIIIHHIIHHI7I", 7, min(minor, _MINOR), readahead, flags, 16, 12, 4096, 1, 0, 0, 0, *[0] * 7)


def entry_reply(attributes: Attributes) -> bytes:
    return struct.pack("<QQQQII", attributes.node, 0, _VALID_S, _VALID_S, 0, 0) + attributes.pack()


def attributes_reply(attributes: Attributes) -> bytes:
    return struct.pack("<QII", _VALID_S, 0, 0) + attributes.pack()


def open_reply() -> bytes:
    """What was read may stay in the page cache (FOPEN_KEEP_CACHE)."""
    return struct.pack("<QII", 0, 2, 0)


def statfs_reply() -> bytes:
    return struct.pack("<QQQQQIIII6I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6)


def reading(body: bytes) -> tuple[int, int]:
    """(offset, bytes) of READ and READDIR."""
    _, offset, length = struct.unpack_from("<QQI", body)
    return offset, length


def attribute_asked(body: bytes) -> tuple[int, bytes]:
    """(room for the answer, 0 to ask for its length; name) of GETXATTR and LISTXATTR, which has none."""
    (room,) = struct.unpack_from("<I", body)
    return room, body[8:].rstrip(b"\0")


def attribute_length_reply(length: int) -> bytes:
    return struct.pack("<II", length, 0)


def directory_entry(name: bytes, following: int, kind: int) -> bytes:
    """``following``: where to go on after it; ``kind``: the type's bits of a mode."""
    head = struct.pack("<QQII", 0xFFFFFFFF, following, len(name), kind >> 12)
    return (head + name).ljust(-(-(len(head) + len(name)) // 8) * 8, b"\0")
