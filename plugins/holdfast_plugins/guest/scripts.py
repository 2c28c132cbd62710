"""The guest processor `scripts`: the owner's own programs quiesce a guest before the snapshot and wake it after.

They run on the manager's host, as the manager's user, as argument lists and never through a shell. What they achieve
only their owner knows, so the owner says it (``consistency``) and it is recorded so in the restore point.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec

from holdfast_agent.errors import GuestProcessingFailed, UsageError
from holdfast_agent.model.units import parse_duration
from holdfast_plugins.api import ConsistencyLevel, FreezeHandle, GuestAccess, Registry, VmInfo

from . import freeze_guard
from .frozen import FrozenGuests

Command = str | tuple[str, ...]
_SLACK_S = 15.0
"""What the guard may take beyond the scripts' own time: to start, and to stop a script politely."""


class ScriptsOptions(msgspec.Struct, frozen=True):
    """``pre_freeze`` and ``post_thaw``: the path of an executable, or a list with its arguments; absolute.

    ``pre_freeze`` succeeds with exit code 0. ``post_thaw`` is run after every attempt to freeze, also one that failed
    half-way, so it must do no harm to a guest that is not frozen. ``timeout`` ends each of them (default 10 minutes,
    for database dumps; freezing a file system should take a second).
    """

    pre_freeze: Command = ()
    post_thaw: Command = ()
    timeout: str | float = 600.0
    consistency: ConsistencyLevel = ConsistencyLevel.FILE_SYSTEM

    def __post_init__(self) -> None:
        if not self.pre_freeze and not self.post_thaw:
            raise ValueError("give pre_freeze, post_thaw, or both")
        for command in (argv(self.pre_freeze), argv(self.post_thaw)):
            if command and not Path(command[0]).is_absolute():
                raise ValueError(f"the path of a script must be absolute, not {command[0]!r}")
        if not 0 < self.timeout_s <= 86400:
            raise ValueError("timeout must be more than 0 s and at most a day")

    @property
    def timeout_s(self) -> float:
        try:
            return parse_duration(self.timeout)
        except UsageError as error:
            raise ValueError(str(error)) from error


def argv(command: Command) -> list[str]:
    """A command as a list of arguments; empty when there is none."""
    if isinstance(command, str):
        return [command] if command else []
    return list(command)


class ScriptsProcessor:
    """A ``GuestProcessor``. Thread-safe: each freeze has a guard process of its own."""

    def __init__(self, options: ScriptsOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._frozen = FrozenGuests()

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        handle = ScriptsFreeze(self._options, vm.ref.name, deadline_s)
        return self._frozen.add(handle)

    def close(self) -> None:
        """Thaw what nobody thawed."""
        self._frozen.thaw_all()


class ScriptsFreeze:
    """A ``FreezeHandle``: the near end of a guard process. Made frozen, or not at all."""

    note = "frozen for the snapshot by scripts"
    shortfall = ""

    def __init__(self, options: ScriptsOptions, vm: str, deadline_s: float) -> None:
        self.consistency = options.consistency
        self._vm = vm
        self._patience_s = options.timeout_s + _SLACK_S
        self._lock = threading.Lock()
        self._thawed = False
        self._guard = _start_guard()
        self._buffered = b""
        self._order = freeze_guard.Order(
            freeze=argv(options.pre_freeze),
            thaw=argv(options.post_thaw),
            vm=vm,
            freeze_timeout_s=options.timeout_s,
            thaw_timeout_s=options.timeout_s,
            deadline_s=deadline_s,
        )
        try:
            self._send(vars(self._order))
            event = self._event("pre-freeze")
            if event["event"] == "failed":
                self._event("post-thaw")
                raise self._failed("pre-freeze", event["reason"])
        except BaseException:
            self._end()
            raise

    def thaw(self) -> None:
        with self._lock:
            if self._thawed:
                return
            self._thawed = True
            try:
                with contextlib.suppress(BrokenPipeError):  # it thawed by its deadline and has gone
                    self._send({"thaw": True})
                event = self._event("post-thaw")
            finally:
                self._end()
        if event["error"]:
            raise self._failed("post-thaw", event["error"])
        if event["by"] == "deadline":
            raise self._failed("freeze", "the deadline passed before the snapshot was there, and the guest was thawed")

    def _send(self, message: Mapping[str, object]) -> None:
        _pipe(self._guard.stdin).write(json.dumps(message).encode() + b"\n")

    def _event(self, phase: str) -> dict[str, str]:
        """The guard's next word.

        Raises :class:`GuestProcessingFailed` when it keeps silent, or was killed: then the guest is thawed from here.
        """
        descriptor = _pipe(self._guard.stdout).fileno()
        end = time.monotonic() + self._patience_s
        while b"\n" not in self._buffered:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            data = os.read(descriptor, 65536) if ready else b""
            if not data:
                if ready:
                    freeze_guard.run(self._order.thaw, self._vm, "post-thaw", self._order.thaw_timeout_s)
                raise self._failed(phase, "the process that runs the scripts died" if ready else "no answer in time")
            self._buffered += data
        line, _, self._buffered = self._buffered.partition(b"\n")
        event: dict[str, str] = json.loads(line)
        return event

    def _end(self) -> None:
        """Let go of the guard. With its input closed it thaws, should it not have done so, and ends by itself."""
        _pipe(self._guard.stdin).close()
        try:
            self._guard.wait(self._patience_s)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        _pipe(self._guard.stdout).close()

    def _failed(self, phase: str, reason: str) -> GuestProcessingFailed:
        return GuestProcessingFailed(vm=self._vm, phase=phase, reason=reason)


def _start_guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", freeze_guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 (both are asked for in _start_guard; narrows the type)
    return stream


def holdfast_register_guest_processors(registry: Registry) -> None:
    registry.guest_processor(
        "scripts",
        ScriptsProcessor,
        summary="runs the owner's programs before the snapshot and after it",
        options_type=ScriptsOptions,
    )
