"""What a restored file is given besides its content: owner, mode, extended attributes and times."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from holdfast_agent.errors import MalformedMessage
from holdfast_agent.wire.files import FileEntry, FileKind

from .attributes import is_told

Complain = Callable[[bytes, str], None]

_CAPABILITY = b"security.capability"
_PRIVILEGES = stat.S_ISUID | stat.S_ISGID
_MOST_TOLD = 50
_DISK_FAILED = (errno.EIO, errno.EROFS)


class Dresser:
    """One thread. ``privileges``: setuid and setgid bits of files are kept, and capabilities.

    What cannot be done is told to ``complain``: of attributes once for each kind and reason, for where one of them
    cannot be set, mostly none can.
    """

    def __init__(self, privileges: bool, complain: Complain) -> None:
        self._privileges = privileges
        self._complain = complain
        self._is_root = os.geteuid() == 0
        self._told: set[tuple[bytes, int | None]] = set()

    def dress(self, entry: FileEntry, fd: int) -> None:
        """A file or folder. Raises OSError, and :class:`MalformedMessage` for what a file system cannot have."""
        mode = entry.mode & 0o7777
        if entry.kind is FileKind.FILE and mode & _PRIVILEGES and not self._privileges:
            mode &= ~_PRIVILEGES
            self._complain(entry.path, "its setuid and setgid bits were left out")
        if self._is_root:
            os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, mode)
        # A change of the owner takes capabilities away, and one of the mode alters the access list.
        self._set_attributes(entry, fd)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def dress_link(self, entry: FileEntry, folder: int, name: bytes) -> None:
        """A symbolic link in the open ``folder``. Raises as :meth:`dress`."""
        if self._is_root:
            os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        self._set_attributes(entry, b"/proc/self/fd/%d/%s" % (folder, name))
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def _set_attributes(self, entry: FileEntry, where: int | bytes) -> None:
        for name, value in entry.attributes:
            if not is_told(name):
                raise MalformedMessage(peer="the reader of file systems", reason="an attribute that is not a file's")
            if name == _CAPABILITY and not self._privileges:
                self._complain(entry.path, "its capabilities were left out")
                continue
            try:
                os.setxattr(where, name, value, follow_symlinks=isinstance(where, int))
            except OSError as error:
                if error.errno in _DISK_FAILED:
                    raise
                self._leave_out(entry, name, error)

    def _leave_out(self, entry: FileEntry, name: bytes, error: OSError) -> None:
        # Of the user's and the trusted ones there are many.
        kind = name.partition(b".")[0] if name.startswith((b"user.", b"trusted.")) else name
        if (kind, error.errno) in self._told or len(self._told) > _MOST_TOLD:
            return
        self._told.add((kind, error.errno))
        shown = name.decode("utf-8", "backslashreplace")
        reason = error.strerror or str(error)
        self._complain(entry.path, f"its attribute {shown} was left out, as others may be: {reason}")
