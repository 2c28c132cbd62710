"""What tests start ends with them, also when they are killed: by a signal, by a time-out, by what ends a job of CI.

A plugin of pytest. All that a process of pytest starts inherits a mark by the environment, through forks, sessions of
the kernel, and the deaths of parents that tests kill on purpose. A warden waits for the end of that process, in a
session of its own, so that no signal for the group reaches it, and kills what bears the mark. A worker of xdist and
all that it starts bear the mark of the process that hands out the tests, too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lab.processes import alive, children

_VARIABLE = "TESTS_WARDEN"
_TESTS = Path(__file__).parents[1]
_ROUNDS = 200
"""Each kills what was forked in the one before. What is left after them all hangs in the kernel."""
_PAUSE_S = 0.05
_LOOKS = 3
"""In a row that must find nothing: a process that begins another program has no environment for a moment."""


def pytest_configure() -> None:
    """Called in each process of pytest before it starts anything."""
    _be_watched()


def bearers(mark: str) -> list[int]:
    """Living processes that bear the mark, and those below them, which may have been given another environment."""
    found = {pid for pid in _all_pids() if mark.encode() in _environment(pid) and alive(pid)}
    return sorted(found.union(*map(_below, found)))


@functools.cache
def _be_watched() -> None:
    unmarked = {name: value for name, value in os.environ.items() if name != _VARIABLE}
    mark = secrets.token_hex(16)
    os.environ[_VARIABLE] = f"{os.environ.get(_VARIABLE, '')} {mark}"
    watched = os.pidfd_open(os.getpid())
    subprocess.Popen(
        [sys.executable, "-P", "-m", "lab.warden", str(watched), mark],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**unmarked, "PYTHONPATH": str(_TESTS)},
        pass_fds=(watched,),
        start_new_session=True,
    ).returncode = 0  # nobody waits for it: it outlives this process
    os.close(watched)


def _watch(watched: int, mark: str) -> None:
    select.select([watched], [], [])
    empty = 0
    for _ in range(_ROUNDS):
        left = bearers(mark)
        empty = 0 if left else empty + 1
        if empty == _LOOKS:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def _all_pids() -> Iterator[int]:
    return (int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit())


def _environment(pid: int) -> bytes:
    """As it was when its program began; empty for a process that is gone, or that another user runs."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _below(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _below(child)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
