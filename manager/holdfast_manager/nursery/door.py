"""The socket between a command line and the nursery: where it is, who may use it, and what passes over it.

One connection for each command, of packets: the command line asks (:class:`Asked`), is told the process id, says
:data:`GO` with its standard streams, and is told the exit code, a byte. Until it says so, the process does nothing; a
connection that is closed before is a command that never was. The streams come no sooner, for in a queue that nobody
reads they would stay open, and who reads them at their other end would wait.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import holdfast_agent

PACKET_BYTES: Final = 128 << 10  # what a socket of this kind holds unasked; a larger environment is loaded for
GO: Final = b"g"
INTERRUPTED: Final = 128 + signal.SIGINT
PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What would end the command line is for the command."""
PID: Final = struct.Struct("<i")
_NAME = "commands.sock"
_PEER = struct.Struct("iII")  # struct ucred: pid, uid, gid; unix(7)


class Asked(NamedTuple):
    """A command as it was typed: everything that a process has from who starts it, but its descriptors."""

    program: str
    """See :func:`program`: only the same may run it."""
    folder: str
    umask: int
    arguments: tuple[str, ...]
    environment: dict[str, str]

    def pack(self) -> bytes:
        """Texts that end by NUL, which none of them can hold."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        head = [self.program, self.folder, str(self.umask), str(len(self.arguments))]
        return b"".join(os.fsencode(text) + b"\0" for text in (*head, *self.arguments, *settings))

    @classmethod
    def unpack(cls, packet: bytes) -> Asked:
        """Raises ``ValueError``."""
        if not packet.endswith(b"\0"):
            raise ValueError("a packet that was cut off")
        program, folder, umask, count, *texts = [os.fsdecode(text) for text in packet[:-1].split(b"\0")]
        arguments, settings = texts[: int(count)], texts[int(count) :]
        if len(arguments) != int(count) or not all("=" in setting[1:] for setting in settings):
            raise ValueError("a packet that contradicts itself")
        environment = dict(setting.split("=", 1) for setting in settings)
        return cls(program, folder, int(umask), tuple(arguments), environment)


def program() -> str:
    """What runs here: another version, Python or search path would run something else than what was typed."""
    path = sys.path if sys.flags.safe_path else sys.path[1:]
    return ":".join((holdfast_agent.__version__, sys.executable, *path))


def connect(home: Path) -> socket.socket:
    """A connection to the nursery of the manager in ``home``. Raises ``OSError`` when there is none, or not of ours."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short(home) as folder:
            connection.connect(f"{folder}/{_NAME}")
        if not is_ours(connection):
            raise PermissionError("the nursery belongs to somebody else")
    except BaseException:
        connection.close()
        raise
    return connection


def make(home: Path) -> socket.socket:
    """The door in ``home``, in place of one that is no more; it is for the nursery to listen. For the service that
    leads only."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        remove(home)
        with _short(home) as folder:
            os.fchmod(door.fileno(), 0o600)  # which is that of the file that appears, whatever the umask
            door.bind(f"{folder}/{_NAME}")
    except BaseException:
        door.close()
        raise
    return door


def remove(home: Path) -> None:
    """Take the door's name away. Idempotent."""
    (home / _NAME).unlink(missing_ok=True)


def is_ours(connection: socket.socket) -> bool:
    """Whether the other side is a process of the same user; root is another one, whose files would be root's."""
    _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid) == os.geteuid()


@contextmanager
def _short(home: Path) -> Iterator[str]:
    """A name of ``home`` that is short enough for an address of a socket (108 bytes), however deep it lies."""
    folder = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)
