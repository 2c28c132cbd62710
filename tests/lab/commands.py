"""Commands of `holdfast` and `holdfast-agent` run to their end, quickly; see :mod:`lab.command_server`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

_TESTS = Path(__file__).parents[1]


class Commands(Protocol):
    """Runs a command to its end."""

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """As :func:`subprocess.run` with nothing to read and with text captured. Raises ``TimeoutExpired``."""


class _Programs:
    """Starts each command as a program of its own, as users do."""

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout_s,
            check=False,
        )


PROGRAMS: Commands = _Programs()


class CommandServer:
    """One server, started when it is first needed. Thread-safe but for :meth:`close`."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        """``prefix`` is put before the server's command, such as what runs it in another network namespace."""
        self._requests, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", "lab.command_server"],
                stdin=far.fileno(),
                env={**os.environ, "PYTHONPATH": str(_TESTS)},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """As :func:`subprocess.run` with nothing to read and with text captured. Raises ``TimeoutExpired``."""
        packet = json.dumps({"command": command, "environment": dict(environment)}).encode()
        read, told = os.pipe()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, os.fdopen(read):
            with Path(os.devnull).open() as nothing, os.fdopen(told, "wb"):
                streams = (nothing.fileno(), out.fileno(), err.fileno())
                socket.send_fds(self._requests, [packet], [told, *streams])
            code = _exit_code(read, command, timeout_s)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())

    def close(self) -> None:
        """End the server; commands that run still go on."""
        self._requests.close()
        self._process.wait()


def _exit_code(pipe: int, command: Sequence[str], timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    told = b""
    while told.count(b"\n") < 2:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(told), signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(command), timeout_s)
        piece = os.read(pipe, 64)
        if not piece:
            raise AssertionError("the server of commands has ended")
        told += piece
    return int(told.split()[1])


@functools.cache
def shared_server() -> CommandServer:
    """The server of this process; it ends with it."""
    server = CommandServer()
    atexit.register(server.close)
    return server
