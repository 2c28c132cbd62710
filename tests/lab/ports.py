"""Ports of loopback for servers of tests, which nobody else is given before the server listens."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
from collections.abc import Iterator

_FIRST, _OF_A_PROCESS, _PROCESSES = 10_000, 125, 80


def free_port() -> int:
    """A TCP port that nobody listens on.

    A port that the kernel gives is also given to the next who connects somewhere. These lie below those (32768 and on,
    on Linux) and below the movers' (20000 and on). Each process of tests on this machine has its own, as long as it
    lives, and takes them in turn: the one of a server that is killed and started again is nobody else's meanwhile.
    """
    _, turns = _own()
    while True:
        port = next(turns)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def _own() -> tuple[socket.socket, Iterator[int]]:
    """What keeps others from the ports of this process, until it ends; and those."""
    for number in range(_PROCESSES):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0holdfast-lab-ports-{number}")
        except OSError:
            claim.close()
            continue
        first = _FIRST + number * _OF_A_PROCESS
        return claim, itertools.cycle(range(first, first + _OF_A_PROCESS))
    raise AssertionError(f"{_PROCESSES} processes run tests at once")
