"""The two sockets by which a running guest is spoken to: QEMU's monitor, and the guest agent."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_BOOT_S = 60.0
_ASK_AGAIN_S = 5.0
_CHUNK_BYTES = 1 << 20
_ids = itertools.count(os.getpid() << 16)


class Refused(AssertionError):
    """QEMU or the agent answered with an error."""


class Monitor:
    """QMP. ``events``: all that came so far, the oldest first; they are taken in while commands run."""

    def __init__(self, path: Path) -> None:
        self._socket = _connect(path, _BOOT_S)
        self._file = self._socket.makefile("rw")
        self.events: list[dict[str, Any]] = []
        try:
            json.loads(self._file.readline())  # the greeting; nothing comes from a QEMU that has just ended
            self.run("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def run(self, command: str, **arguments: object) -> Any:
        """Execute a QMP command; its result. Underscores in names of arguments stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._file.write(json.dumps({"execute": command, "arguments": named}))
        self._file.flush()
        while "event" in (answer := json.loads(self._file.readline())):
            self.events.append(answer)
        if "return" not in answer:
            raise Refused(answer)
        return answer["return"]

    def wait_event(self, name: str) -> dict[str, Any]:
        """The first event of that name, which may have come already; it is taken out."""
        for event in self.events:
            if event["event"] == name:
                self.events.remove(event)
                return event
        while (event := json.loads(self._file.readline())).get("event") != name:
            self.events.append(event)
        return event

    def wait_incoming(self) -> None:
        """Return when a saved state that QEMU was started with is in."""
        while (status := self.run("query-migrate").get("status", "setup")) != "completed":
            assert status in ("setup", "active"), status
            time.sleep(0.01)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()


class Agent:
    """qemu-guest-agent. Each call connects anew, so that what is tested can have the socket in between."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, command: str, timeout_s: float = _BOOT_S, **arguments: object) -> Any:
        """Execute one command of the agent; its result."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        with self._synchronised(timeout_s) as (connection, lines):
            connection.sendall(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
            answer = json.loads(lines.readline())
        if "return" not in answer:
            raise Refused(answer)
        return answer["return"]

    def ping(self, timeout_s: float = _BOOT_S) -> None:
        """Return when the agent answers, which it does as soon as the guest has booted."""
        self.run("guest-ping", timeout_s)

    def execute(self, *command: str, stdin: str = "", timeout_s: float = 60.0) -> str:
        """Run a program in the guest to its end; what it printed. It must succeed."""
        path, *rest = command
        options: dict[str, Any] = {"input_data": _encoded(stdin.encode())} if stdin else {}
        pid = self.run("guest-exec", path=path, arg=rest, capture_output=True, **options)["pid"]
        end, pause_s = time.monotonic() + timeout_s, 0.005
        while not (status := self.run("guest-exec-status", pid=pid))["exited"]:
            assert time.monotonic() < end, f"{command} does not end"
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)
        printed = "".join(base64.b64decode(status.get(name, "")).decode() for name in ("out-data", "err-data"))
        assert status.get("exitcode") == 0, f"{command}: {status.get('exitcode', status.get('signal'))}: {printed}"
        return printed

    def shell(self, script: str, timeout_s: float = 60.0) -> str:
        """Run a script of the guest's shell to its end; what it printed."""
        return self.execute("/bin/sh", "-ec", script, timeout_s=timeout_s)

    def read(self, path: str) -> bytes:
        """A file of the guest."""
        handle = self.run("guest-file-open", path=path, mode="r")
        data = b""
        while not (part := self.run("guest-file-read", handle=handle, count=_CHUNK_BYTES))["eof"]:
            data += base64.b64decode(part["buf-b64"])
        data += base64.b64decode(part["buf-b64"])
        self.run("guest-file-close", handle=handle)
        return data

    def write(self, path: str, data: bytes) -> None:
        """Make or replace a file of the guest."""
        handle = self.run("guest-file-open", path=path, mode="w")
        for start in range(0, len(data), _CHUNK_BYTES):
            self.run("guest-file-write", handle=handle, buf_b64=_encoded(data[start : start + _CHUNK_BYTES]))
        self.run("guest-file-close", handle=handle)

    @contextlib.contextmanager
    def _synchronised(self, timeout_s: float) -> Iterator[tuple[socket.socket, BinaryIO]]:
        """A connection on which no earlier answer is left. An agent that was restarted meanwhile is asked again."""
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0:
            with _connect(self.path, min(left_s, _ASK_AGAIN_S)) as connection, connection.makefile("rb") as lines:
                number = next(_ids)
                sync = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
                connection.sendall(b"\xff" + json.dumps(sync).encode() + b"\n")
                try:
                    while number != _identity(lines.readline()):
                        pass
                except TimeoutError:
                    continue
                connection.settimeout(timeout_s)
                yield connection, lines
                return
        raise TimeoutError("the guest agent does not answer")


def _identity(line: bytes) -> int | None:
    """The number that a line answers guest-sync-delimited with; None for the rest of an older answer."""
    assert line, "the guest agent's socket was closed"
    with contextlib.suppress(ValueError):
        return json.loads(line.rpartition(b"\xff")[2]).get("return")
    return None


def _connect(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
