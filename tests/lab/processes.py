"""Processes of this machine: started for a test, and looked at through /proc."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOVER = "holdfast-mover"
"""As a Data Mover calls itself. A session's process is the only child of the command that started it."""
_START_TIME = 19  # field 22 of /proc/PID/stat, counted from after the name


@contextmanager
def program(command: Sequence[str | Path], **how: Any) -> Iterator[subprocess.Popen[Any]]:
    """A program that runs meanwhile; killed and reaped at the end, also of a test that fails."""
    with subprocess.Popen(command, **how) as started:
        try:
            yield started
        finally:
            started.kill()


def children(pid: int, what: str = "") -> list[int]:
    """Living children of ``pid``, the oldest first; only those that run the module, or have the name, ``what``."""
    found = [child for child in _children(pid) if alive(child) and what in command(child)]
    return sorted(found, key=lambda child: (_started(child) or 0, child))


def alive(pid: int) -> bool:
    """Whether the process runs: neither gone nor waiting for being reaped."""
    return _started(pid) is not None


def stopped(pid: int) -> bool:
    """Whether a signal has stopped the process."""
    return _read(pid, "stat").rpartition(") ")[2].startswith("T")


def command(pid: int) -> str:
    """Its name and its arguments with spaces between; empty for a process that is gone."""
    return f"{_read(pid, 'comm').strip()} {_read(pid, 'cmdline')}".replace("\0", " ").strip()


def waits_in(pid: int) -> str:
    """The kernel's functions in which its threads sleep; "0" is one that computes, or that the kernel hides."""
    return ", ".join(sorted({_read(pid, f"task/{task.name}/wchan") for task in Path(f"/proc/{pid}/task").glob("*")}))


def memory_kib(pid: int, field: str) -> int:
    """A field of /proc/PID/status such as VmRSS; 0 for a process that is gone."""
    for line in _read(pid, "status").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return 0


def _children(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, tasks.read_text().split())
        except OSError:
            continue


def _started(pid: int) -> int | None:
    """Clock ticks since boot; None for a process that is gone or waits for being reaped."""
    fields = _read(pid, "stat").rpartition(") ")[2].split()
    return int(fields[_START_TIME]) if fields and fields[0] not in "ZX" else None


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""
