"""Ports of loopback for servers of tests, which nobody else is given before the server listens."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket

_FIRST, _OF_A_WORKER, _WORKERS = 10_000, 1_250, 8
_turns = itertools.count(secrets.randbelow(_OF_A_WORKER))


def free_port() -> int:
    """A TCP port that nobody listens on.

    A port that the kernel gives is also given to the next who connects somewhere. These lie below those (32768 and on,
    on Linux) and below the movers' (20000 and on), each worker of the tests has its own, and takes them in turn.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = _FIRST + worker % _WORKERS * _OF_A_WORKER + next(_turns) % _OF_A_WORKER
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
