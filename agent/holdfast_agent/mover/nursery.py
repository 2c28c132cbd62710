"""``python -m holdfast_agent.mover.nursery``: a process that has loaded what movers need, and forks them.

A mover started as a program loads its modules for a tenth of a second or two; forked from a process that has them it
works at once, and shares their memory until it writes there. The agent asks over the socket that is our standard input
(:class:`holdfast_agent.service.nursery.Nursery`): a message brings the descriptors of the new mover's pipes, the answer
is its process id. Nothing that belongs to a task ever comes here: keys and orders go to the mover over its own pipe.

A fork is safe because nothing runs here but this loop: no thread, no connection, no state of a task. Random numbers are
each mover's own: Python seeds ``random`` anew in a child, OpenSSL notices the fork, all else asks the kernel.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from holdfast_agent.prctl import end_with_parent
from holdfast_agent.starting import loading

PID: Final = struct.Struct("<i")
"""The answer. 0 comes once unasked when all is loaded, and to a request when the kernel forks no more."""
MAX_FDS: Final = 3
"""Orders, reports, and perhaps the lock of a write session."""
_GO = b"g"


def main() -> None:
    """Entry point. Ends when the agent has closed its end of the socket."""
    with loading():
        from holdfast_agent.channel import data_connector, data_listener  # noqa: F401 - loaded for the forks

        from . import checker, process, reader, source, target, writer  # noqa: F401 - loaded for the forks
    serve(socket.socket(fileno=0), process.main)


def serve(door: socket.socket, live: Callable[[], None]) -> None:
    """Fork a mover, whose life is ``live``, for each message of the agent, which is our parent."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("a module has started a thread, whose locks every fork would inherit")
    agent = os.getppid()
    door.send(PID.pack(0))
    while True:
        asked, fds, _, _ = socket.recv_fds(door, 1, MAX_FDS)
        if not asked:
            return
        try:
            _bear(door, fds, agent, live)
        finally:
            for fd in fds:
                os.close(fd)


def _bear(door: socket.socket, fds: Sequence[int], agent: int, live: Callable[[], None]) -> None:
    """Fork a grandchild: its parent ends at once, and the kernel makes it a child of the agent.

    So all holds for it that holds for a mover which the agent starts itself: exit status, signals, end with the agent.
    It touches nothing before its number is told. Without an answer the agent may give its pipes to another.
    """
    gate, told = os.pipe(), os.pipe()
    try:
        between = _fork()
        if between == 0:
            _give_away(gate, told, fds, agent, live)
        if between is not None:
            os.waitpid(between, 0)
        os.close(told[1])
        number = os.read(told[0], PID.size)
        door.send(number or PID.pack(0))
        if number:
            os.write(gate[1], _GO)
    finally:
        for fd in (*gate, told[0]):
            os.close(fd)


def _give_away(
    gate: tuple[int, int], told: tuple[int, int], fds: Sequence[int], agent: int, live: Callable[[], None]
) -> NoReturn:
    """The life of the process between: it is over when the mover is there."""
    try:
        mover = _fork()
        if mover == 0:
            os.close(told[1])
            os.close(gate[1])
            _live(gate[0], fds, agent, live)
        if mover is not None:
            os.setpgid(mover, mover)  # it leads a group before anybody knows it
            os.write(told[1], PID.pack(mover))
    finally:
        os._exit(0)


def _fork() -> int | None:
    """0 in the child; None if the kernel has no room for one."""
    try:
        return os.fork()
    except OSError:
        return None


def _live(gate: int, fds: Sequence[int], agent: int, live: Callable[[], None]) -> NoReturn:
    """The whole life of a mover. It keeps descriptor 2 and what it was given."""
    try:
        if os.read(gate, len(_GO)):
            end_with_parent(agent, signal.SIGTERM)
            for number, fd in zip((0, 1, 3), fds, strict=False):
                os.dup2(fd, number, inheritable=number < 2)
            os.closerange(1 + len(fds), os.sysconf("SC_OPEN_MAX"))
            live()
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
