"""A quick start and a quick end of processes that live for seconds, as a mover, a session or a command does."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


def module_command(module: str) -> tuple[str, ...]:
    """The command line that runs ``module`` as a program. The working directory, which may be anybody's, is no place to
    import from: -P."""
    return (sys.executable, "-P", "-m", module)


@contextmanager
def loading() -> Iterator[None]:
    """Around the imports of a program: modules stay, so that nobody need look through them for garbage.

    The collector would look several times while they load, and once more as the interpreter ends: a fifth of the start
    of a session, and a tenth of a second at its end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end(status: int) -> NoReturn:
    """End this process at once, after what it has written is handed on. Called last of all.

    The interpreter would wait for every thread that a plugin left behind, for ever where one never ends; and it would
    look for garbage among all that a short life has made.
    """
    hand_on()
    os._exit(status)


def hand_on() -> None:
    """Hand on what was logged and written, as far as somebody takes it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads any more, or it was never open
            stream.flush()


class Child:
    """A child of this process that was forked, not started as a program. Used by one thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._status: int | None = None

    @property
    def pid(self) -> int:
        return self._pid

    def poll(self) -> int | None:
        """Its exit status, as :class:`subprocess.Popen` tells it; None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        status = self._reap(0)
        assert status is not None  # noqa: S101 - waitpid waited
        return status

    def kill(self) -> None:
        """SIGKILL; nothing happens to a process that has ended."""
        if self.poll() is None:  # its number is ours until it is reaped
            os.kill(self._pid, signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self._pid, options)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status
