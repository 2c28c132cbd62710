"""The agent's end of :mod:`holdfast_agent.mover.nursery`: movers that are forked in milliseconds.

The template is started beside the first mover, so that an agent which moves nothing needs no memory for it, and ends
when no mover was wanted for a while. Whatever becomes of it, movers are started as programs then: it saves time and
nothing depends on it. Running movers are children of the agent, and live on without it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from holdfast_agent.mover.nursery import PID
from holdfast_agent.prctl import adopting, end_with_parent
from holdfast_agent.starting import Child, module_command

from .mover_birth import MOVER_COMMAND, Process, mover_environment, new_program

TEMPLATE_COMMAND: Final = module_command("holdfast_agent.mover.nursery")
IDLE_S: Final = 600.0
"""Without a mover the template ends: some 20 MiB are worth a tenth of a second in a night of backups, not all day."""
_ANSWER_S = 2.0  # it takes milliseconds; the loop waits meanwhile, as it does for a program to be started

_log = logging.getLogger(__name__)


class Nursery:
    """Used by the loop's thread only."""

    def __init__(self, mover: Sequence[str] = MOVER_COMMAND, template: Sequence[str] = TEMPLATE_COMMAND) -> None:
        """``mover``: the program that is started where there is no template; without ``template`` there never is."""
        self._mover = mover
        self._command = template
        self._template: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None
        self._loaded = False
        self._wanted_at = 0.0

    def birth(self, orders: int, reports: int, held: int | None) -> Process:
        """A :data:`~.mover_birth.Birth`: forked where that is possible now, as a program otherwise."""
        self._wanted_at = time.monotonic()
        fds = [orders, reports] if held is None else [orders, reports, held]
        if self._door is not None and self.ready() and (pid := self._forked(self._door, fds)):
            return Child(pid)
        process = new_program(self._mover, orders, reports, held)
        self.open()
        return process

    def open(self) -> None:
        """Start the template, as the first mover does. Idempotent."""
        if self._door is not None or not self._command:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._template = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                cwd="/",
                env=mover_environment(os.environ),
                process_group=0,
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGKILL),
            )
            self._door, self._wanted_at = ours, time.monotonic()
        except OSError as error:
            _log.warning("the template of movers cannot be started: %s", error)
            ours.close()
        finally:
            theirs.close()

    def ready(self, wait_s: float = 0) -> bool:
        """Whether the template has said that all is loaded. One that has died says nothing; :meth:`tick` sees that."""
        if self._door is not None and not self._loaded and select.select([self._door], [], [], wait_s)[0]:
            self._loaded = bool(_answer(self._door))
        return self._loaded

    def tick(self) -> None:
        """Called about once a second."""
        if self._template is None:
            return
        if self._template.poll() is not None:
            _log.warning("the template of movers ended with %d", self._template.returncode)
            self.close()
        elif time.monotonic() - self._wanted_at > IDLE_S:
            self.close()

    def close(self) -> None:
        """End the template, which has nothing to clean up. Idempotent."""
        if self._template is not None and self._door is not None:
            self._template.kill()
            self._template.wait()
            self._door.close()
        self._template = self._door = None
        self._loaded = False

    def _forked(self, door: socket.socket, fds: Sequence[int]) -> int:
        """The process id, 0 if there is none."""
        try:
            with adopting():
                socket.send_fds(door, [b"m"], fds)
                if not select.select([door], [], [], _ANSWER_S)[0] and self._template is not None:
                    _log.warning("the template of movers does not answer")
                    self._template.kill()  # now an answer is there, or none will come
                (pid,) = PID.unpack(_answer(door) or PID.pack(0))
            if pid:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # an error: it did not become our child
        except OSError as error:
            _log.warning("the template of movers is of no use: %s", error)
            pid = 0
        if not pid:
            self.close()
        return int(pid)


def _answer(door: socket.socket) -> bytes:
    """The next message; nothing from a template that is gone."""
    try:
        return door.recv(PID.size)
    except ConnectionResetError:
        return b""
