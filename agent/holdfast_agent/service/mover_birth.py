"""How the process of a mover comes to be as a program of its own; :mod:`.nursery` has the quicker way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from holdfast_agent.prctl import end_with_parent
from holdfast_agent.starting import module_command

MOVER_COMMAND: Final = module_command("holdfast_agent.mover")

_KEEP_BUFFERS = {  # glibc gives 1 MiB buffers back to the kernel after each use; keeping them saves 20 to 35 %
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}
_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"})


class Process(Protocol):
    """A child of the agent."""

    @property
    def pid(self) -> int: ...

    def wait(self) -> int:
        """Its exit status, once it has ended; negative: the signal that ended it."""


Birth = Callable[[int, int, int | None], Process]
"""Start a mover, with these descriptors as its standard input (orders) and output (reports); the third, if any, is the
lock of a write session that it holds too. It leads a group and is sent SIGTERM when the agent dies. Raises OSError."""


def new_program(command: Sequence[str], orders: int, reports: int, held: int | None) -> subprocess.Popen[bytes]:
    """A :data:`Birth`, once ``command`` is bound."""
    return subprocess.Popen(
        command,
        stdin=orders,
        stdout=reports,
        cwd="/",
        env=mover_environment(os.environ),
        pass_fds=() if held is None else (held,),
        process_group=0,
        preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
    )


def mover_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The agent's environment without what is for the daemon alone, and with malloc told to keep large buffers."""
    return {name: value for name, value in environment.items() if name not in _NOT_INHERITED} | _KEEP_BUFFERS
