"""Two ways in which the process of a session comes to be: as a program of its own, or forked from the command line.

A program of its own loads everything anew: a third of a second of processor time, half of it for SQLAlchemy. The
command line has loaded most of that itself when it starts a session, lives only to follow it, and has neither threads
nor connections yet: a fork of it costs nothing of this. The service has both, lives for months, and its sessions shall
run what is installed now: it starts programs.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

from holdfast_agent.starting import Child, loading, module_command

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Process(Protocol):
    """What a parent may do with the process of a session. Used by one thread."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def wait(self) -> int:
        """Its exit status, once it has ended."""

    def kill(self) -> None:
        """SIGKILL; nothing happens to a process that has ended."""


Birth = Callable[[int, int, Mapping[str, str]], Process]
"""Start the process, with these descriptors as its standard input and as its standard output and error, and the
environment. It leads a session of the kernel's, so that it outlives the terminal, and inherits no other descriptor."""


def new_program(given: int, log: int, environment: Mapping[str, str]) -> Process:
    """As a program of its own."""
    return subprocess.Popen(
        module_command("holdfast_manager.sessions"),
        stdin=given,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
        close_fds=True,
    )


def forked(given: int, log: int, environment: Mapping[str, str]) -> Process:
    """As a fork of this process; as a program of its own where threads run here, whose locks a fork might inherit."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return new_program(given, log, environment)
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # Ctrl-C is for the parent until the fork has left it
    try:
        pid = os.fork()
        if pid == 0:
            _live(given, log, environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Child(pid)


def _live(given: int, log: int, environment: Mapping[str, str]) -> NoReturn:
    """The whole life of a fork. Nothing that the parent has open or wants done at its end is touched."""
    status = 1
    try:
        os.setsid()
        for number, descriptor in enumerate((given, log, log)):
            os.dup2(descriptor, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the parent's may hold what somebody typed
        sys.stdout = sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(environment)
        logging.getLogger().handlers.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with loading():
            from .program import main
        status = main()
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(status)
