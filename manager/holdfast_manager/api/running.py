"""One command that runs for somebody on another host: its process, its streams, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from holdfast_agent.starting import module_command
from holdfast_agent.wire.messages import Push
from holdfast_manager.rights.values import UserEntry

from .carrying import made_files
from .command import Order
from .messages import CHUNK_BYTES, WINDOW_BYTES, CommandEnded, FileMade, Output, Terminal
from .streams import Streams

_KILL_AFTER_S = 10.0
_LINGER_S = 2.0
"""After the process has gone, something that it started may still hold its streams; nobody waits for that."""
log = logging.getLogger(__name__)


class Running:
    """Owned by the API's loop. ``push`` tells the client; it says whether the client is still there.

    The loop watches ``fds`` and calls ``ready``; it calls ``tick`` each second. ``done`` becomes true once all is told
    and cleaned up.
    """

    def __init__(
        self,
        number: int,
        user: UserEntry,
        order: Order,
        terminal: Terminal,
        environment: Mapping[str, str],
        push: Callable[[Push], bool],
    ) -> None:
        """Starts the process. Raises ``OSError`` when this host has no room for it."""
        self.number = number
        self.user = user
        self.done = False
        self._left = False
        self._push = push
        self._folder = Path(order.folder)
        self._credit = WINDOW_BYTES
        self._input: tuple[bytes, Callable[[], None]] | None = None
        self._code: int | None = None
        self._ended_at = 0.0
        self._kill_at = float("inf")
        self._files: Iterator[FileMade] | None = None
        self._streams = Streams(terminal)
        try:
            self._process = _start(order, self._streams, environment)
            self._pidfd = os.pidfd_open(self._process.pid)
        except BaseException:
            self._streams.release()
            self._streams.close()
            raise
        self._streams.release()

    @property
    def fds(self) -> dict[int, tuple[bool, bool]]:
        """What is waited for: (readable, writable) of each descriptor."""
        waited = dict.fromkeys(self._streams.outer, (self._credit > 0, False))
        if self._code is None:
            waited[self._pidfd] = (True, False)
        if self._input is not None and self._streams.given >= 0:
            waited[self._streams.given] = (waited.get(self._streams.given, (False, False))[0], True)
        return waited

    def give(self, data: bytes, end: bool, taken: Callable[[], None]) -> bool:
        """Input; ``taken`` is called when the command has it, or wants none. False: the last is not taken yet."""
        if self._input is not None:
            return False

        def finish() -> None:
            if end:
                self._streams.end_input()
            taken()

        self._input = (data, finish)
        self._write()
        return True

    def took(self, length_bytes: int) -> None:
        """The client has taken so much."""
        self._credit = min(WINDOW_BYTES, self._credit + length_bytes)
        self._send_files()

    def resize(self, columns: int, lines: int) -> None:
        """The client's terminal has another size."""
        self._streams.resize(columns, lines)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._signal(signal.SIGINT)

    def hang_up(self) -> None:
        """The client has gone, or may no longer be here: as a terminal that is closed. Sessions go on by themselves."""
        self._left = True
        self._credit = 0
        self._streams.close()
        self._input = None
        if self._code is not None:
            self._finish()
        elif self._kill_at == float("inf"):
            self._signal(signal.SIGHUP)
            self._kill_at = time.monotonic() + _KILL_AFTER_S

    def wait_end(self, timeout_s: float) -> None:
        """After ``hang_up``, when the loop has ended: wait for the process, and kill it in the end."""
        if self._code is None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
            self._ended()

    def ready(self, fd: int) -> None:
        """A descriptor of ours is ready."""
        if fd == self._pidfd and self._code is None:
            self._ended()
        if fd in self._streams.outer and self._credit > 0:
            self._read(fd)
        if fd == self._streams.given:
            self._write()

    def tick(self) -> None:
        """Each second: end what takes too long to end."""
        now = time.monotonic()
        if self._code is None and now >= self._kill_at:
            self._signal(signal.SIGKILL)
        if self._code is not None and self._streams.outer and self._credit > 0 and now >= self._ended_at + _LINGER_S:
            self._streams.close()
            self._send_files()

    def _ended(self) -> None:
        code = self._process.wait()
        self._code = code if code >= 0 else 128 - code
        os.close(self._pidfd)
        self._ended_at = time.monotonic()
        self._taken()
        if self._left:
            self._finish()
        self._send_files()

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, min(CHUNK_BYTES, self._credit))
        except BlockingIOError:
            return
        except OSError:  # of a terminal that nobody has open any more
            data = b""
        if not data:
            self._streams.close_output(fd)
            self._send_files()
            return
        self._credit -= len(data)
        self._tell(Output(command=self.number, stream=self._streams.outer[fd], data=data))

    def _write(self) -> None:
        if self._input is None:
            return
        data, finish = self._input
        try:
            written = os.write(self._streams.given, data) if self._streams.given >= 0 and data else len(data)
        except BlockingIOError:
            return
        except OSError:  # the command reads no more
            written = len(data)
        self._input = (data[written:], finish)
        if written == len(data):
            self._taken()

    def _taken(self) -> None:
        if self._input is not None:
            finish = self._input[1]
            self._input = None
            finish()

    def _send_files(self) -> None:
        """Once the process and its streams have ended: what it made, as far as the client takes it, then the end."""
        if self._code is None or self._streams.outer or self.done:
            return
        if self._files is None:
            self._files = _parts(self.number, self._folder)
        while self._credit > 0:
            part = next(self._files, None)
            if part is None:
                self._finish()  # first: who is told finds nothing of it any more
                self._tell(CommandEnded(command=self.number, code=self._code))
                return
            self._credit -= len(part.data)
            self._tell(part)

    def _tell(self, push: Push) -> None:
        if not self._left and not self._push(push):
            self.hang_up()

    def _signal(self, number: signal.Signals) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _finish(self) -> None:
        if not self.done:
            self.done = True
            self._streams.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _start(order: Order, streams: Streams, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The order goes by a file without a name: it may hold secrets."""
    given = os.memfd_create("order")
    with os.fdopen(given, "wb") as file:
        file.write(msgspec.msgpack.encode(order))
        file.flush()
        file.seek(0)
        stdin, stdout, stderr = streams.inner
        return subprocess.Popen(
            [*module_command("holdfast_manager.api.command"), str(given)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(environment),
            pass_fds=(given,),
            start_new_session=True,
        )


def _parts(number: int, folder: Path) -> Iterator[FileMade]:
    for name, place in made_files(folder):
        with place.open("rb") as file:
            data = file.read(CHUNK_BYTES)
            while True:
                following = file.read(CHUNK_BYTES)
                yield FileMade(command=number, name=name, data=data, last=not following)
                if not following:
                    break
                data = following
