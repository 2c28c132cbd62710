"""``python -m holdfast_manager.nursery.template``: has loaded what commands need, and forks one for who asks.

The service gives it the socket as standard input (:class:`holdfast_manager.service.nursery.CommandNursery`),
and it ends with the service. Commands that run go on.

A fork is safe because nothing runs here but this loop: no thread, no connection, no catalogue. Random numbers are each
command's own: Python seeds ``random`` anew in a child, OpenSSL notices the fork, all else asks the kernel.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from holdfast_agent.starting import hand_on, loading

from . import door
from .door import INTERRUPTED, PASSED_ON

_BACKLOG = 32
_PATIENCE_S = 2.0
_STREAMS = 3
_PASSED_ON: Final = frozenset(PASSED_ON)
_F_SETSIG: Final = 10  # linux/fcntl.h; Python has no name for it
Run = Callable[[Sequence[str]], int]


def main() -> None:
    """Entry point. The arguments are the hypervisors whose plugins are wanted."""
    with loading():
        import holdfast_manager.cli.agent
        import holdfast_manager.cli.job
        import holdfast_manager.cli.point
        import holdfast_manager.cli.repository
        import holdfast_manager.cli.session
        import holdfast_manager.sessions.program  # noqa: F401 - loaded for the forks, as the others are
        from holdfast_manager.catalog.database import Database, url_of
        from holdfast_manager.cli.main import RARELY, run
        from holdfast_manager.host.discovery import load_beforehand
        from holdfast_manager.settings import ManagerSettings

        settings = ManagerSettings.load()
        Database(url_of(settings)).close()  # which loads its driver, and connects to nothing
        load_beforehand(sys.argv[1:], settings.plugins.disabled)
    gc.set_threshold(RARELY)
    serve(socket.socket(fileno=os.dup(0)), run)


def serve(listening: socket.socket, run: Run) -> None:
    """Fork a process for each connection of our own user, until we are killed."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("a module has started a thread, whose locks every fork would inherit")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for commands but who typed them
    listening.listen(_BACKLOG)  # before this, and when we are gone, command lines are refused and help themselves
    while True:
        connection, _ = listening.accept()
        with connection:
            if door.is_ours(connection):
                with suppress(OSError):  # there is no room for a process: the command line helps itself
                    if os.fork() == 0:
                        listening.close()
                        _live(connection, run)


def _live(connection: socket.socket, run: Run) -> NoReturn:
    """The whole life of a fork."""
    code = 1
    try:
        # What is passed on from now on waits until the command is there that can heed it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        asked = _take(connection)
        if asked is None:
            os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        code = run(asked.arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        hand_on()
        with suppress(OSError):
            connection.send(bytes([code & 0xFF]))
        os._exit(code)


def _take(connection: socket.socket) -> door.Asked | None:
    """Become the process that was asked for; None when it is not wanted, or must not be run here."""
    connection.settimeout(_PATIENCE_S)
    try:
        asked = door.Asked.unpack(connection.recv(door.PACKET_BYTES))
        if asked.program != door.program():
            return None
        connection.send(door.PID.pack(os.getpid()))
        said, streams, _, _ = socket.recv_fds(connection, len(door.GO), _STREAMS)
        if said != door.GO or len(streams) != _STREAMS:
            return None
    except (OSError, ValueError):
        return None
    connection.settimeout(None)
    _end_with(connection)
    _dress(asked, streams)
    return asked


def _end_with(connection: socket.socket) -> None:
    """When the command line is gone, this process is hung up on, as if its terminal were closed."""
    for number in PASSED_ON:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, _F_SETSIG, signal.SIGHUP)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)


def _dress(asked: door.Asked, streams: Sequence[int]) -> None:
    """Streams, environment, folder and umask of who typed the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for life, as the interpreter's own
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(asked.environment)
    time.tzset()
    os.umask(asked.umask)
    with suppress(OSError):  # removed since
        os.chdir(asked.folder)


if __name__ == "__main__":
    main()
