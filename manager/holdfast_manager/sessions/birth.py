"""How the process of a session comes to be: forked from one that has loaded what it needs, or as a program of its own.

A program of its own loads everything anew: a third of a second of processor time, half of it for SQLAlchemy. The
command line has loaded most of that itself when it starts a session, lives only to follow it, and has neither threads
nor connections yet: it forks itself. The service, and a session that starts others, have both: they ask the service's
template for a fork (:mod:`holdfast_manager.nursery`), which bears it only where it would be what a program is: of the
version that is installed, and with the same surroundings. Whatever keeps either from being done, a program is started.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

from holdfast_agent.starting import Child, loading, module_command
from holdfast_manager.nursery import door
from holdfast_manager.nursery.surroundings import surroundings

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Process(Protocol):
    """What a parent may do with the process of a session. Used by one thread.

    How it ended the catalogue tells: an exit status is known of children only.
    """

    @property
    def pid(self) -> int: ...

    def poll(self) -> object:
        """None while it runs."""

    def wait(self) -> object:
        """Return once it has ended."""

    def kill(self) -> None:
        """SIGKILL; nothing happens to a process that has ended."""


Birth = Callable[[int, int, Mapping[str, str]], Process]
"""Start the process, with these descriptors as its standard input and as its standard output and error, and the
environment, which names HOLDFAST_HOME. It leads a session of the kernel's, so that it outlives the terminal, and
inherits no other descriptor."""


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


def loaded(given: int, log: int, environment: Mapping[str, str]) -> Process:
    """As a fork of the service's template; as a program of its own where that cannot be."""
    if not door.is_off(environment):
        with suppress(OSError), door.connect(Path(environment["HOLDFAST_HOME"])) as nursery:
            asked = door.Asked.from_here(door.SESSION, (), environment, surroundings(environment))
            pid, descriptor = door.ask(nursery, asked)
            try:
                door.go(nursery, (given, log, log))
            except OSError:
                os.close(descriptor)
                raise
            return Foundling(pid, descriptor)
    return new_program(given, log, environment)


class Foundling:
    """A process that is no child of this one, by its descriptor (pidfd_open(2)). Used by one thread."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self._pid = pid
        self._descriptor: int | None = descriptor

    @property
    def pid(self) -> int:
        return self._pid

    def poll(self) -> object:
        """None while it runs."""
        return self._ended(0)

    def wait(self) -> object:
        """Return once it has ended."""
        return self._ended(None)

    def kill(self) -> None:
        """SIGKILL; nothing happens to a process that has ended."""
        if self._descriptor is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def _ended(self, timeout_s: float | None) -> bool | None:
        if self._descriptor is not None:
            end = select.poll()
            end.register(self._descriptor, select.POLLIN)
            if not end.poll(timeout_s):
                return None
            os.close(self._descriptor)
            self._descriptor = None
        return True


def forked(given: int, log: int, environment: Mapping[str, str]) -> Process:
    """As a fork of this process; as :func:`loaded` where threads run here, whose locks a fork might inherit."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return loaded(given, log, environment)
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # Ctrl-C is for the parent until the fork has left it
    try:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            live((given, log, log), environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Child(pid)


def live(streams: Sequence[int], environment: Mapping[str, str]) -> NoReturn:
    """The whole life of a fork, which leads a session of the kernel's already.

    Nothing that the parent has open or wants done at its end is touched.
    """
    status = 1
    try:
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the parent's may hold what somebody typed
        sys.stdout = sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        logging.getLogger().handlers.clear()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with loading():
            from .program import main
        status = main()
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(status)
