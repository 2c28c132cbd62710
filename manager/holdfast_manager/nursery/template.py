"""``python -m holdfast_manager.nursery.template``: has loaded what commands and sessions need, and forks them.

The service gives it the socket as standard input (:class:`holdfast_manager.service.nursery.Nursery`),
and it ends with the service, or once what is installed is no longer what it has loaded. Its forks go on.

A fork is safe because nothing runs here but this loop: no thread, no connection, no catalogue. Random numbers are each
fork's own: Python seeds ``random`` anew in a child, OpenSSL notices the fork, all else asks the kernel.
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
from holdfast_manager.sessions import birth

from . import door
from .door import INTERRUPTED, PASSED_ON
from .installed import Loaded
from .surroundings import surroundings

_BACKLOG = 32
_PATIENCE_S = 2.0
_STREAMS = 3
_PASSED_ON: Final = frozenset(PASSED_ON)
_F_SETSIG: Final = 10  # linux/fcntl.h; Python has no name for it
Run = Callable[[Sequence[str]], int]


def main() -> None:
    """Entry point. The arguments are the hypervisors whose plugins are wanted."""
    began_ns = time.time_ns()
    ours = surroundings(os.environ)
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
    loaded = Loaded(began_ns)
    with socket.socket(fileno=os.dup(0)) as listening:
        Template(listening, ours, run).serve(loaded)
    sys.exit("What is installed has changed; the next process that commands are forked from loads that")


class Template:
    """``ours``: the surroundings of this process. ``run`` runs a command."""

    def __init__(self, listening: socket.socket, ours: str, run: Run) -> None:
        self._listening = listening
        self._ours = ours
        self._run = run

    def serve(self, loaded: Loaded) -> None:
        """Fork a process for each connection of our own user, until we are killed, or not ``loaded.is_installed``."""
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            raise RuntimeError("a module has started a thread, whose locks every fork would inherit")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for forks
        self._listening.listen(_BACKLOG)  # before this, and when we are gone, who asks is refused and helps himself
        while True:
            connection, _ = self._listening.accept()
            with connection:
                if not door.is_ours(connection):
                    continue
                if not loaded.is_installed():
                    return
                with suppress(OSError):  # there is no room for a process: who asks helps himself
                    if os.fork() == 0:
                        self._live(connection)

    def _live(self, connection: socket.socket) -> NoReturn:
        """The whole life of a fork."""
        code = 1
        try:
            self._listening.close()
            # What is passed on from now on waits until the command is there that can heed it.
            signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            taken = self._take(connection)
            if taken is None:
                os._exit(code)
            asked, streams = taken
            os.umask(asked.umask)
            with suppress(OSError):  # removed since
                os.chdir(asked.folder)
            if asked.life == door.SESSION:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
                birth.live(streams, asked.environment)
            _end_with(connection)
            _dress(asked, streams)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            code = self._run(asked.arguments)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
            traceback.print_exc()
        finally:
            hand_on()
            with suppress(OSError):
                connection.send(bytes([code & 0xFF]))
            os._exit(code)

    def _take(self, connection: socket.socket) -> tuple[door.Asked, Sequence[int]] | None:
        """What is wanted of this process, and its streams; None when it is not wanted, or must not be born here."""
        connection.settimeout(_PATIENCE_S)
        try:
            asked = door.Asked.unpack(connection.recv(door.PACKET_BYTES))
            if not self._may_be(asked):
                return None
            connection.settimeout(None)  # who was told of this process says so, or is gone: it must not leave sooner
            connection.send(door.PID.pack(os.getpid()))
            said, streams, _, _ = socket.recv_fds(connection, len(door.GO), _STREAMS)
        except (OSError, ValueError):
            return None
        return (asked, streams) if said == door.GO and len(streams) == _STREAMS else None

    def _may_be(self, asked: door.Asked) -> bool:
        if asked.program != door.program():
            return False
        return asked.life == door.COMMAND or (asked.life == door.SESSION and asked.surroundings == self._ours)


def _end_with(connection: socket.socket) -> None:
    """When the command line is gone, this process is hung up on, as if its terminal were closed."""
    for number in PASSED_ON:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, _F_SETSIG, signal.SIGHUP)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)


def _dress(asked: door.Asked, streams: Sequence[int]) -> None:
    """Streams and environment of who typed the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for life, as the interpreter's own
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(asked.environment)
    time.tzset()


if __name__ == "__main__":
    main()
