"""One connection to the monitor of a running QEMU, for calls that block.

QEMU serves one client of a monitor at a time; the next one is let in when this one has hung up. So a connection is held
for one piece of work only, and that is at the same time what keeps two sessions from changing one VM at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast_agent.errors import HypervisorUnreachable

from .options import Address

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

OLDEST = (7, 1)
"""Before, a copy that fails could only fail the guest's write: `on-cbw-error` came with 7.1."""
_POLL_S = 0.002
_T = TypeVar("_T")


class QemuNotRunning(HypervisorUnreachable):
    """Nobody listens at the monitor's address: the process that had made it has ended."""


class CommandRefused(Exception):
    """QEMU did not carry out a command. The text is its own."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"{command}: {reason}")
        self.reason = reason


class Monitor:
    """Made by :func:`connected`. Not thread-safe. Every call has the time-out that it was made with."""

    def __init__(
        self, vm: str, runner: asyncio.Runner, client: QMPClient, peer: socket.socket, timeout_s: float
    ) -> None:
        self._vm = vm
        self._runner = runner
        self._client = client
        self._peer = peer
        self._timeout_s = timeout_s

    @property
    def version(self) -> tuple[int, int, int]:
        """Of QEMU."""
        told: Any = self._client.greeting.QMP.version["qemu"] if self._client.greeting is not None else {}
        return int(told.get("major", 0)), int(told.get("minor", 0)), int(told.get("micro", 0))

    @property
    def takes_descriptors(self) -> bool:
        """Whether open files can be handed to QEMU over this connection."""
        return self._peer.family == socket.AF_UNIX

    def run(self, command: str, arguments: dict[str, Any] | None = None, descriptor: int | None = None) -> Any:
        """The result of a command; ``descriptor`` is handed over with it.

        Raises :class:`CommandRefused`, or ``HypervisorUnreachable`` where QEMU has ended or does not answer: then it is
        not known whether the command was carried out.
        """
        from qemu.qmp import ExecuteError, QMPError  # an optional package, loaded by `connected`

        if descriptor is not None:
            self._client.send_fd_scm(descriptor)
        try:
            return self._wait(self._client.execute(command, arguments))
        except ExecuteError as error:
            raise CommandRefused(command, str(error)) from error
        except TimeoutError as error:
            reason = f"it has not answered {command} for {self._timeout_s:g} s"
            raise HypervisorUnreachable(server=self._vm, reason=reason) from error
        except (QMPError, OSError, EOFError) as error:
            reason = f"QEMU hung up during {command}: has it ended?"
            raise HypervisorUnreachable(server=self._vm, reason=reason) from error

    def transaction(self, actions: list[tuple[str, dict[str, Any]]]) -> None:
        """Carry out all actions at one instant, or none."""
        if actions:
            self.run("transaction", {"actions": [{"type": kind, "data": data} for kind, data in actions]})

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Ask until ``condition`` holds. Raises :class:`CommandRefused` when it does not in time."""
        deadline = time.monotonic() + self._timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise CommandRefused(what, f"not done within {self._timeout_s:g} s")
            time.sleep(_POLL_S)

    def process(self) -> int | None:
        """The process id of QEMU, where it runs on this machine and listens itself (SO_PEERCRED of ``unix(7)``)."""
        if not self.takes_descriptors:
            return None
        told = self._peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        process: int = struct.unpack("3i", told)[0]
        try:
            program = Path(f"/proc/{process}/exe").readlink().name
        except OSError:
            return None
        return process if "qemu" in program else None

    def close(self) -> None:
        """Hang up. Must not raise: what went wrong on the connection has been told by the command that met it."""
        with contextlib.suppress(Exception):  # it reports the end of the connection by whatever had ended it
            self._wait(self._client.disconnect())
        self._peer.close()

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(asyncio.wait_for(work, self._timeout_s))


@contextmanager
def connected(vm: str, address: Address, timeout_s: float) -> Iterator[Monitor]:
    """A monitor that is greeted and hung up at the end. Raises ``HypervisorUnreachable`` (retryable)."""
    try:
        from qemu.qmp import QMPClient, QMPError
    except ImportError as error:
        reason = "the package qemu.qmp is not installed: pip install 'holdfast[qemu]'"
        raise HypervisorUnreachable(server=vm, reason=reason) from error
    peer = _connect(vm, address, timeout_s)
    with asyncio.Runner() as runner:
        client = QMPClient(vm)
        monitor = Monitor(vm, runner, client, peer, timeout_s)
        try:
            try:
                runner.run(asyncio.wait_for(client.connect(peer), timeout_s))
            except TimeoutError as error:
                reason = (
                    f"{address} does not greet: another client is connected; give Holdfast a -qmp socket of its own"
                )
                raise HypervisorUnreachable(server=vm, reason=reason) from error
            except (QMPError, OSError, EOFError) as error:
                raise HypervisorUnreachable(server=vm, reason=f"{address} is no monitor: {error}") from error
            _expect_recent(vm, monitor.version)
            yield monitor
        finally:
            monitor.close()


def _connect(vm: str, address: Address, timeout_s: float) -> socket.socket:
    try:
        if not address.path:
            return _ready(socket.create_connection((address.host, address.port), timeout_s))
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.settimeout(timeout_s)
            peer.connect(address.path)
        except BaseException:
            peer.close()
            raise
        return _ready(peer)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        reason = f"its QEMU does not run: nobody listens at {address}"
        raise QemuNotRunning(server=vm, reason=reason) from error
    except OSError as error:
        raise HypervisorUnreachable(server=vm, reason=f"{address}: {error.strerror or error}") from error


def _ready(peer: socket.socket) -> socket.socket:
    peer.setblocking(False)
    return peer


def _expect_recent(vm: str, version: tuple[int, int, int]) -> None:
    if version[:2] < OLDEST:
        found = ".".join(map(str, version))
        raise HypervisorUnreachable(
            server=vm, reason=f"QEMU {found} is too old; the first that can be backed up here is 7.1"
        )
