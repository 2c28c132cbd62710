"""The process that runs a guest's freeze and thaw scripts, and sees to it that a frozen guest is thawed.

Started by :mod:`holdfast_plugins.guest.scripts`, one per freeze, as a program of its own in a process group of its
own: it outlives a killed session by as long as it takes to thaw. It is the only one that runs the thaw script, so the
script runs just once whoever gives the word: the session, the deadline, or the end of the session's process.

Conversation, one JSON object per line. Standard input: first the order (see ``Order``), later ``{"thaw": true}``;
its end means that the session is gone. Standard output: ``{"event": "frozen"}`` or ``{"event": "failed", "reason"}``,
and last ``{"event": "thawed", "by": "request" | "deadline" | "orphaned" | "failure", "error": reason or ""}``.

Standard library only: it is run by its path, without the packages around it, so it is up within some 30 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field

OUTPUT_LINES = 10
_CHUNK_BYTES = 4096
_TAIL_BYTES = 8192
_TERMINATE_GRACE_S = 5.0


@dataclass(frozen=True)
class Order:
    """What the session asks for. Empty commands are not run. All times in seconds."""

    freeze: list[str]
    thaw: list[str]
    vm: str
    freeze_timeout_s: float
    thaw_timeout_s: float
    deadline_s: float


@dataclass
class Control:
    """Standard input: lines from the session, and its end."""

    descriptor: int = 0
    buffered: bytes = b""
    orphaned: bool = False
    lines: deque[str] = field(default_factory=deque)

    def read(self) -> None:
        """Take in what has come; call when readable."""
        data = os.read(self.descriptor, _CHUNK_BYTES)
        self.orphaned = not data
        *whole, self.buffered = (self.buffered + data).split(b"\n")
        self.lines.extend(line.decode() for line in whole)

    def wait(self, timeout_s: float) -> str | None:
        """The next line; None when the session is gone or the time is over."""
        end = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.descriptor, selectors.EVENT_READ)
            while not self.lines and not self.orphaned:
                left_s = end - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    return None
                self.read()
        return self.lines.popleft() if self.lines else None


def main() -> int:
    # Told to stop, it goes on: it ends by itself within the deadline, and a frozen guest may not be left behind.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    control = Control()
    line = control.wait(_TERMINATE_GRACE_S)
    if line is None:
        return 1
    order = Order(**json.loads(line))
    reason = run(order.freeze, order.vm, "pre-freeze", order.freeze_timeout_s, control)
    if reason:
        tell(event="failed", reason=reason)
        by = "failure"
    else:
        tell(event="frozen")
        by = "request" if control.wait(order.deadline_s) else "orphaned" if control.orphaned else "deadline"
    tell(event="thawed", by=by, error=run(order.thaw, order.vm, "post-thaw", order.thaw_timeout_s))
    return 0


def tell(**event: str) -> None:
    """Report to the session; nobody may be there any more."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(event).encode() + b"\n")


def run(command: list[str], vm: str, phase: str, timeout_s: float, control: Control | None = None) -> str:
    """Run a script to its end. Returns why it failed, with its last lines of output; empty when it went well.

    With ``control`` it is also stopped when the session is gone.
    """
    if not command:
        return ""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    environment |= {"HOLDFAST_VM": vm, "HOLDFAST_PHASE": phase}
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return f"{command[0]} could not be started: {error.strerror}"
    verdict, output = _follow(process, timeout_s, control)
    lines = output.decode(errors="replace").splitlines()[-OUTPUT_LINES:]
    return f"{verdict}; its last words: {' | '.join(lines)}" if verdict and lines else verdict


def _follow(process: subprocess.Popen[bytes], timeout_s: float, control: Control | None) -> tuple[str, bytes]:
    """Wait for ``process``, not for the end of its output: a script may leave a helper running that holds the pipe."""
    assert process.stdout is not None  # noqa: S101 (asked for above; narrows the type)
    end = time.monotonic() + timeout_s
    output = b""
    watched = os.pidfd_open(process.pid)
    try:
        with process.stdout as pipe, selectors.DefaultSelector() as selector:
            os.set_blocking(pipe.fileno(), False)
            selector.register(watched, selectors.EVENT_READ)
            selector.register(pipe, selectors.EVENT_READ)
            if control is not None:
                selector.register(control.descriptor, selectors.EVENT_READ)
            while process.poll() is None:
                ready = {key.fd for key, _ in selector.select(max(0.0, end - time.monotonic()))}
                if pipe.fileno() in ready and not (data := _read(pipe.fileno())):
                    selector.unregister(pipe)
                elif pipe.fileno() in ready:
                    output = (output + data)[-_TAIL_BYTES:]
                if control is not None and control.descriptor in ready:
                    control.read()
                    if control.orphaned:
                        _stop(process)
                        return "the session ended before it did", output
                if time.monotonic() >= end:
                    _stop(process)
                    return f"it was stopped after {timeout_s:g} s", output
            output = (output + (_read(pipe.fileno()) or b""))[-_TAIL_BYTES:]
    finally:
        os.close(watched)
    return (f"exit code {process.returncode}" if process.returncode else ""), output


def _read(descriptor: int) -> bytes:
    """What is there now, at most some KiB; empty at the end of the pipe or when nothing is there."""
    try:
        return os.read(descriptor, _TAIL_BYTES)
    except BlockingIOError:
        return b""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the script and everything in its process group, first politely."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_TERMINATE_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
