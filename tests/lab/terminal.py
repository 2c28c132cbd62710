"""A program at a terminal of its own, and somebody who reads and types there."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

PATIENCE_S = 60.0
_CTRL_C = b"\x03"
_AGAIN_S = 3.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """Not thread-safe. Made by :func:`at_terminal`."""

    def __init__(self, ours: int, process: subprocess.Popen[bytes]) -> None:
        self._ours = ours
        self._process = process
        self._seen = 0
        self.shown = ""
        """All that was ever on the screen, without colours."""

    def expect(self, text: str) -> str:
        """Read on until ``text`` is shown, after what was expected before; returns what came up to its end."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.shown.find(text, self._seen)) < 0:
            assert self._read(deadline), f"it ended, or stopped, without {text!r}:\n{self.shown}"
        before, self._seen = self._seen, found + len(text)
        return self.shown[before : self._seen]

    def type(self, line: str, *, unseen: bool = False) -> None:
        """A line. ``unseen``: not before what is typed is no longer shown, for until then it would be thrown away."""
        deadline = time.monotonic() + PATIENCE_S
        while unseen and self.echoes:
            assert time.monotonic() < deadline, f"what is typed would be seen:\n{self.shown}"
            time.sleep(0.005)
        os.write(self._ours, line.encode() + b"\n")

    def interrupt(self) -> int:
        """Ctrl-C until the program ends; returns its exit code.

        Once is not always enough: what comes after a question is shown, and before Python waits for the answer, is
        heeded with the next key only. People press again, too.
        """
        deadline = time.monotonic() + PATIENCE_S
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"Ctrl-C does not end it:\n{self.shown}"
            os.write(self._ours, _CTRL_C)
            again = time.monotonic() + _AGAIN_S
            while self._read(again):
                pass
        return self.end()

    def end(self) -> int:
        """Read to the end of the program; returns its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self._process.wait(PATIENCE_S)

    @property
    def echoes(self) -> bool:
        """Whether what is typed is seen, as it must be after a secret was asked for."""
        return bool(termios.tcgetattr(self._ours)[3] & termios.ECHO)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        piece = b""
        if ready:
            with contextlib.suppress(OSError):  # EIO: the last writer has gone
                piece = os.read(self._ours, 65536)
        self.shown += _COLOURS.sub("", piece.decode(errors="replace")).replace("\r\n", "\n")
        return bool(piece)


@contextlib.contextmanager
def at_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Start a program at a new terminal; it is killed at the end if it still runs."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        # Ctrl-C means something there, also where the tests run in the background and were told to ignore it.
        ["setsid", "--ctty", "env", "--default-signal=INT", *command], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)  # the program's alone: that it has ended is seen by this
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
