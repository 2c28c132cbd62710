"""Starting a QEMU that outlives who started it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from holdfast_agent.errors import UsageError

_START_S = 60.0
_LOOK_S = 0.05
_SHOWN_BYTES = 1000


def launch(program: Path, answers: Callable[[], bool]) -> None:
    """Run ``program`` in a session of its own until ``answers`` does. What it says goes to ``qemu.log`` beside it.

    Raises :class:`UsageError` if it ends or does not come up in time. One that makes itself a daemon may end.
    """
    log = program.with_name("qemu.log")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    process = os.posix_spawn(program, [str(program)], environment, file_actions=actions, setsid=True)
    deadline, ended = time.monotonic() + _START_S, None
    while not answers():
        if ended is None:
            found, status = os.waitpid(process, os.WNOHANG)
            ended = os.waitstatus_to_exitcode(status) if found else None
        if ended or time.monotonic() > deadline:
            told = log.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").strip() or f"it ended with {ended}"
            raise UsageError(reason=f"QEMU does not start it from the restore point: {told}")
        time.sleep(_LOOK_S)
