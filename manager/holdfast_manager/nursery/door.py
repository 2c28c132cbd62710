"""The socket between the nursery and who wants a process of it: where it is, who may use it, what passes over it.

One connection for each process, of packets: a command line, or who starts a session, asks (:class:`Asked`), is told the
process id, and says :data:`GO` with the standard streams. Until then the process does nothing; a connection that is
closed before is a process that never was. The streams come no sooner, for in a queue that nobody reads they would stay
open, and who reads them at their other end would wait. A command line is told the exit code, a byte; a session's
process closes the connection, for it outlives who started it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
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
COMMAND: Final = "command"
SESSION: Final = "session"
"""What a process may be asked to live as: the command of these arguments, or the process of a session."""
_NAME = "commands.sock"
_PATIENCE_S = 0.3  # a fork takes milliseconds; loading all oneself takes as long as this
_PEER = struct.Struct("iII")  # struct ucred: pid, uid, gid; unix(7)


class Asked(NamedTuple):
    """A process that is wanted: everything that it has from who starts it, but its descriptors."""

    life: str
    program: str
    """See :func:`program`: only the same may run it."""
    surroundings: str
    """Only a template that has the same may bear it (:mod:`.surroundings`); "": a command, which takes the service's.
    """
    folder: str
    umask: int
    arguments: tuple[str, ...]
    environment: dict[str, str]

    @classmethod
    def from_here(
        cls, life: str, arguments: Sequence[str], environment: Mapping[str, str], surroundings: str = ""
    ) -> Asked:
        """By this process, as it is now."""
        return cls(life, program(), surroundings, _folder(), _umask(), tuple(arguments), dict(environment))

    def pack(self) -> bytes:
        """Texts that end by NUL, which none of them can hold."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        head = [self.life, self.program, self.surroundings, self.folder, str(self.umask), str(len(self.arguments))]
        return b"".join(os.fsencode(text) + b"\0" for text in (*head, *self.arguments, *settings))

    @classmethod
    def unpack(cls, packet: bytes) -> Asked:
        """Raises ``ValueError``."""
        if not packet.endswith(b"\0"):
            raise ValueError("a packet that was cut off")
        texts = [os.fsdecode(text) for text in packet[:-1].split(b"\0")]
        life, program, surroundings, folder, umask, count, *texts = texts
        arguments, settings = texts[: int(count)], texts[int(count) :]
        if len(arguments) != int(count) or not all("=" in setting[1:] for setting in settings):
            raise ValueError("a packet that contradicts itself")
        environment = dict(setting.split("=", 1) for setting in settings)
        return cls(life, program, surroundings, folder, int(umask), tuple(arguments), environment)


def is_off(environment: Mapping[str, str]) -> bool:
    """Whether processes with this environment load all by themselves."""
    return environment.get("HOLDFAST_NURSERY") == "off"


def program() -> str:
    """What runs here: another version, Python or search path would run something else than what was typed."""
    path = sys.path if sys.flags.safe_path else sys.path[1:]
    return ":".join((holdfast_agent.__version__, sys.executable, *path))


def connect(home: Path) -> socket.socket:
    """A connection to the nursery of the manager in ``home``, on which nothing waits for long.

    Raises ``OSError`` when there is none, or not of ours, or one at which too many wait already.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_PATIENCE_S)  # first of all: where nobody accepts, connecting waits as well
    try:
        with _short(home) as folder:
            connection.connect(f"{folder}/{_NAME}")
        if not is_ours(connection):
            raise PermissionError("the nursery belongs to somebody else")
    except BaseException:
        connection.close()
        raise
    return connection


def ask(nursery: socket.socket, asked: Asked) -> tuple[int, int]:
    """The id of the process that lives as asked once :data:`GO` is said, and a descriptor of it (pidfd_open(2)).

    Raises ``OSError`` when the nursery does not answer, or will not bear this one.
    """
    packet = asked.pack()
    if len(packet) > PACKET_BYTES:
        raise OSError(errno.EMSGSIZE, "an environment larger than a packet")
    nursery.send(packet)
    told = nursery.recv(PID.size)
    if len(told) != PID.size:
        raise ConnectionRefusedError("the nursery bears no such process")
    (pid,) = PID.unpack(told)
    return pid, os.pidfd_open(pid)  # it lives: it waits for our word


def go(nursery: socket.socket, streams: Sequence[int]) -> None:
    """Have the process begin, with these standard streams. Raises ``OSError`` when it is gone."""
    socket.send_fds(nursery, [GO], streams)


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


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - text that is sent
    except OSError:
        return "/"


def _umask() -> int:
    """Read, where asking the kernel would set it for a moment in which another thread makes a file."""
    with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - quicker, and commands wait for it
        return next(int(line.split()[1], 8) for line in status if line.startswith(b"Umask:"))


@contextmanager
def _short(home: Path) -> Iterator[str]:
    """A name of ``home`` that is short enough for an address of a socket (108 bytes), however deep it lies."""
    folder = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)
