"""The standard streams of a command: a terminal of its own where it was typed at one, pipes elsewhere."""

from __future__ import annotations

import contextlib
import os
import termios

from .messages import Terminal


class Streams:
    """Both ends, until ``release`` gives up the command's. ``inner`` are the descriptors that become its 0, 1 and 2.

    What is a terminal at the user's side is one for the command, so that widths, colours, questions and bars are what
    they would be there. Questions are asked only where all three are (``Terminal.interactive``).
    """

    def __init__(self, terminal: Terminal) -> None:
        self.outer: dict[int, int] = {}
        """Descriptors to read, and the stream (1 or 2) that each belongs to."""
        self.given = -1
        """The descriptor to write input to; -1: closed."""
        self._inner: set[int] = set()
        self._master = -1
        try:
            self.inner = self._open(terminal)
        except BaseException:
            self.release()
            self.close()
            raise

    def release(self) -> None:
        """The command has its descriptors: ours of the same must go, else no stream ever ends."""
        for descriptor in self._inner:
            os.close(descriptor)
        self._inner.clear()

    def resize(self, columns: int, lines: int) -> None:
        """The user's terminal has another size."""
        if self._master in self.outer:
            termios.tcsetwinsize(self._master, (lines, columns))

    def end_input(self) -> None:
        """Nothing more will come; a terminal is told by the sign for it."""
        if self.given >= 0 and self.given == self._master:
            with contextlib.suppress(OSError):
                os.write(self.given, b"\x04")
        elif self.given >= 0:
            os.close(self.given)
        self.given = -1

    def close_output(self, descriptor: int) -> None:
        """One has ended."""
        del self.outer[descriptor]
        if descriptor == self.given:
            self.given = -1
        os.close(descriptor)

    def close(self) -> None:
        """Close all that is open on our side. Idempotent."""
        if self.given >= 0 and self.given not in self.outer:
            os.close(self.given)
        self.given = -1
        for descriptor in list(self.outer):
            self.close_output(descriptor)

    def _open(self, terminal: Terminal) -> tuple[int, int, int]:
        slave = -1
        if terminal.stdout or terminal.stderr:
            self._master, slave = os.openpty()
            self._inner.add(slave)
            self.outer[self._master] = 1 if terminal.stdout else 2
            termios.tcsetwinsize(self._master, (terminal.lines, terminal.columns))
            if not terminal.interactive:
                _pass_through(slave)
        output = slave if terminal.stdout else self._pipe_out(1)
        errors = slave if terminal.stderr else self._pipe_out(2)
        if terminal.interactive:
            self.given = self._master
            given = slave
        else:
            given, self.given = os.pipe()
            self._inner.add(given)
        for descriptor in {*self.outer, self.given}:
            os.set_blocking(descriptor, False)
        return given, output, errors

    def _pipe_out(self, stream: int) -> int:
        ours, theirs = os.pipe()
        self.outer[ours] = stream
        self._inner.add(theirs)
        return theirs


def _pass_through(descriptor: int) -> None:
    """What is written leaves as it is: the user's own terminal does the rest, being in its usual mode."""
    mode = termios.tcgetattr(descriptor)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(descriptor, termios.TCSANOW, mode)
