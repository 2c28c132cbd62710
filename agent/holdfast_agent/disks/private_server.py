"""NBD servers of our own: a program that serves one disk on a private socket, for this process alone.

The socket is removed as soon as our connections stand, and the server dies with this process whatever happens to it
(PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from holdfast_agent.errors import DiskError, DiskUnreadable, ToolMissing
from holdfast_agent.prctl import end_with_parent
from holdfast_agent.wire.movers import MoverHost

from .nbd.dial import Dialler, private_dialler

T = TypeVar("T")

_START_S = 20.0
_HANGS_UP_S = 1.0
_STOP_S = 5.0
_FINISH_S = 60.0
_SAID_BYTES = 4000


class PrivateServer(ABC):
    """Start it in the main thread: the kernel kills the server when the *thread* that started it ends."""

    def __init__(self, url: str, host: MoverHost) -> None:
        self.url = url
        self.host = host

    @abstractmethod
    def command(self, address: str) -> Sequence[str]:
        """What serves the disk on the socket ``address``."""

    def explain(self, said: str) -> DiskError:
        """What it means that the server failed with these words."""
        return self.unreadable(said)

    def open(
        self,
        connect: Callable[[Dialler], T],
        *,
        bitmap: str = "",
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> T:
        """Start serving, and make all connections by ``connect``: there will be none after it. Called once.

        ``pass_fds``: what the program is to have open. Raises what :meth:`explain` makes of the server's words, and
        what ``connect`` raises.
        """
        folder = tempfile.mkdtemp(prefix="nbd-", dir=self.host.runtime_dir)  # mode 0700
        try:
            address = str(Path(folder, "s"))
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server; stop closes it
            self._server = self._start(address, pass_fds, environment() | dict(env or {}))
            try:
                self._wait_ready(address)
                return self._connected(lambda: connect(private_dialler(address, self.url, self.host, bitmap)))
            except BaseException:
                self.stop()
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """Never raises. What was written may not be on the disk yet."""
        self._end(_STOP_S)
        self._log.close()

    def finish(self) -> str:
        """Stop in order, so that the disk is whole; what went wrong with that, or nothing."""
        self._end(_FINISH_S)
        said = "" if self._server.returncode == 0 else self.said() or f"it ended with {self._server.returncode}"
        self._log.close()
        return said

    def said(self) -> str:
        """The server's last words, as long as it is not stopped."""
        self._log.seek(0)
        return self._log.read()[-_SAID_BYTES:].decode(errors="replace").strip()

    def unreadable(self, reason: str) -> DiskUnreadable:
        said = reason.strip()[-500:] or "no reason given"
        return DiskUnreadable(url=self.url, offset_bytes=0, length_bytes=0, reason=said)

    def _start(self, address: str, pass_fds: Sequence[int], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(address),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=env,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGKILL),
        )

    def _wait_ready(self, address: str) -> None:
        deadline = time.monotonic() + _START_S
        while not _answers(address):
            # Nothing tells when the server listens except its socket.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(0.01)
                raise self.explain(self.said())
            if time.monotonic() > deadline:
                raise self.unreadable("its server did not begin to serve")

    def _connected(self, connect: Callable[[], T]) -> T:
        """A server may listen before it has opened its disk; one that cannot hangs up, and its words say why."""
        try:
            return connect()
        except DiskError as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(_HANGS_UP_S)
                raise self.explain(self.said()) from error
            raise

    def _end(self, timeout_s: float) -> None:
        self._server.terminate()
        try:
            self._server.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def tool(name: str, host: MoverHost, package: str) -> str:
    """The path of a program. Raises :class:`ToolMissing`."""
    path = shutil.which(name)
    if path is None:
        raise ToolMissing(tool=name, host=host.agent, package=package)
    return path


def environment() -> dict[str, str]:
    """That of programs that we run: nothing of ours but the PATH."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(address) == 0
