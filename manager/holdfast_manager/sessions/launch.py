"""Starting the process of a session. Used by the command line, the service, and sessions that start others."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import sys
import time
from pathlib import Path
from types import TracebackType

from holdfast_agent.errors import HoldfastError
from holdfast_manager.settings import ManagerSettings

from .birth import Birth, Process, loaded

STARTING = ".starting-"
"""How the log of a process begins that has no session yet."""


class SessionNotStarted(HoldfastError):
    """The session's process ended before it took the session over."""

    code = "session_not_started"
    message = "the process of session {session} ended before it began"
    action = "Its log says why: {log}"


class SessionLauncher:
    """A Backup Manager process that starts while its session is still being written down in the catalogue.

    It waits for the session's number on its standard input; one that loads its modules itself does so meanwhile. It
    leads a session of its own, so that it outlives the terminal; its stderr goes to one file per session in
    ``settings.log_dir``. Everything else it reads from the catalogue. Without a number it ends and leaves nothing. A
    context manager; one thread.

    The pipe stays open on both sides until one of them has ended, so that who follows the session need not sleep on.
    ``birth`` is :func:`birth.forked` for a command line that opens its catalogue only after this.
    """

    def __init__(self, settings: ManagerSettings, config: Path | None = None, birth: Birth = loaded) -> None:
        self._logs = settings.log_dir
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._given = self._ended = False
        self._log = self._logs / f"{STARTING}{secrets.token_hex(6)}.log"
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        number, self._pipe = os.pipe()
        try:
            self._process = birth(number, log, settings.environment(config))
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(number)
            os.close(log)

    @property
    def process(self) -> Process:
        """For who stays: children have to be waited for."""
        return self._process

    def __enter__(self) -> SessionLauncher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Without a number the process has done nothing yet: it ends at once, and its log goes."""
        if not self._given:
            self._process.kill()
            self._process.wait()
            self._log.unlink(missing_ok=True)
        os.close(self._pipe)

    def run(self, session: int) -> int:
        """Give it its session; the process id. Called once. Whether it took it the catalogue tells."""
        self._log.rename(self._logs / f"session-{session}.log")
        self._given = True
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, f"{session}\n".encode())
        return self._process.pid

    def wait(self, timeout_s: float) -> None:
        """Sleep for ``timeout_s``, less where the process tells meanwhile that its session has ended."""
        if self._ended:
            time.sleep(timeout_s)
            return
        end = select.poll()
        end.register(self._pipe, 0)  # POLLERR, which is always told: nobody has the other end open any more
        self._ended = bool(end.poll(timeout_s * 1000))


def tell_end() -> None:
    """Called by the session's process when all is written down: whoever waits for it need not wait for its exit."""
    os.close(sys.stdin.fileno())
