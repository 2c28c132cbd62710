"""Who runs a session: a process named so that its death is recognised for sure, on this host."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

_PROC = Path("/proc")


class Moment(NamedTuple):
    """By a clock that nobody sets: ``seconds`` of the same ``boot_id`` may be compared, on whichever process's word."""

    boot_id: str
    seconds: float


def moment() -> Moment:
    """Now. (Linux's CLOCK_MONOTONIC is one for all processes; it stands still while the host sleeps.)"""
    return Moment(_boot_id(), time.monotonic())


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process that no other process can be mistaken for.

    A pid recurs; a pid with its start time in clock ticks since boot (proc(5), field 22 of stat) does not within one
    boot, and ``boot_id`` is fresh at every boot.
    """

    host: str
    boot_id: str
    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a running process of this host. Raises ``ProcessLookupError`` when there is none."""
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(f"there is no process {pid}")
        return cls(socket.gethostname(), _boot_id(), pid, ticks)

    @classmethod
    def current(cls) -> ProcessIdentity:
        """The identity of the calling process."""
        return cls.of(os.getpid())

    def is_here(self) -> bool:
        """Whether it ran on this host, so that its death can be seen."""
        return self.host == socket.gethostname()

    def is_dead(self) -> bool:
        """Whether the process is gone for sure. Of a process on another host nothing is known: False."""
        if not self.is_here():
            return False
        return self.boot_id != _boot_id() or _start_ticks(self.pid) != self.start_ticks

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start_ticks(pid: int) -> int | None:
    """When the process started, or None when it is gone; a zombie does nothing any more and counts as gone."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the command stands in parentheses and may hold any bytes: fields are counted after the last ")"
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
