"""The commands of qemu-guest-agent that quiescing needs, typed and bounded.

Facts of the protocol: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html. All answers come from the guest and
are taken for input: they are decoded into the types below or refused.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from holdfast_agent.errors import GuestAgentRefused, GuestAgentSilent
from holdfast_plugins.api import AgentChannel, Finished

T = TypeVar("T")
COMMAND_TIMEOUT_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5
_WRITE_BYTES = 32768


class FileSystem(msgspec.Struct, frozen=True):
    """A mounted file system. ``kind`` is the guest's own word, as ext4 or NTFS."""

    mountpoint: str
    kind: str = msgspec.field(name="type")


class _Command(msgspec.Struct, frozen=True):
    name: str
    enabled: bool


class _Info(msgspec.Struct, frozen=True):
    supported_commands: list[_Command]


class _Started(msgspec.Struct, frozen=True):
    pid: int


class _ExecStatus(msgspec.Struct, frozen=True, rename="kebab"):
    exited: bool
    exitcode: int | None = None
    signal: int | None = None
    out_data: str = ""
    err_data: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    desc: str = "no reason given"


class _Answer(msgspec.Struct, frozen=True):
    """``error`` or what the command returns."""

    error: _Refusal | None = None
    value: msgspec.Raw = msgspec.field(name="return", default=msgspec.Raw(b"{}"))


class AgentClient:
    """A guest, seen through its agent; an ``InGuest``. Not thread-safe.

    All methods raise ``GuestAgentSilent`` (retryable) and ``GuestAgentRefused``.
    """

    def __init__(self, channel: AgentChannel, vm: str) -> None:
        self._channel = channel
        self._vm = vm

    def enabled_commands(self) -> frozenset[str]:
        """What this agent does; its owner may have switched commands off."""
        info = self._call("guest-info", _Info)
        return frozenset(command.name for command in info.supported_commands if command.enabled)

    def file_systems(self) -> tuple[FileSystem, ...]:
        """What is mounted from disks, in the agent's order."""
        return self._call("guest-get-fsinfo", tuple[FileSystem, ...])

    def is_windows(self) -> bool:
        """Whether the guest runs Windows, whose agent freezes by VSS."""
        return bool(self._call("guest-get-osinfo", dict[str, Any]).get("id") == "mswindows")

    def freeze(self, timeout_s: float) -> int:
        """Freeze all file systems; how many. The agent takes none but its freezing commands until they are thawed."""
        return self._call("guest-fsfreeze-freeze", int, timeout_s)

    def thaw(self, timeout_s: float) -> int:
        """Thaw all file systems; how many still were frozen. Does no harm where none is."""
        return self._call("guest-fsfreeze-thaw", int, timeout_s)

    def is_frozen(self) -> bool:
        """What the agent believes; it does not see when somebody else thaws."""
        return self._call("guest-fsfreeze-status", str) != "thawed"

    def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        """Run a program to its end and return what it printed. It goes on in the guest if it takes longer.

        Raises ``GuestAgentSilent`` also when the program takes longer than ``timeout_s``.
        """
        path, *arguments = command
        started = self._call("guest-exec", _Started, path=path, arg=arguments, capture_output=True)
        end, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
        while not (status := self._call("guest-exec-status", _ExecStatus, pid=started.pid)).exited:
            if time.monotonic() >= end:
                raise GuestAgentSilent(vm=self._vm, reason=f"{path} has not ended within {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        code = status.exitcode if status.exitcode is not None else -(status.signal or 1)
        return Finished(code, _decoded(status.out_data), _decoded(status.err_data))

    def put(self, path: str, data: bytes) -> None:
        """Make or replace a file of the guest, readable as the agent's umask has it."""
        handle = self._call("guest-file-open", int, path=path, mode="w")
        try:
            for start in range(0, len(data), _WRITE_BYTES):
                part = data[start : start + _WRITE_BYTES]
                self._call("guest-file-write", dict[str, Any], handle=handle, buf_b64=base64.b64encode(part).decode())
        finally:
            self._call("guest-file-close", dict[str, Any], handle=handle)

    def _call(self, name: str, returns: type[T], timeout_s: float = COMMAND_TIMEOUT_S, **arguments: object) -> T:
        """One command. Underscores in the names of arguments stand for hyphens."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        command = json.dumps({"execute": name, "arguments": named} if named else {"execute": name})
        try:
            answer = msgspec.json.decode(self._channel.exchange(command.encode(), timeout_s), type=_Answer)
            if answer.error is None:
                return msgspec.json.decode(answer.value, type=returns)
        except msgspec.DecodeError as error:
            reason = f"its answer is not of its protocol: {error}"
            raise GuestAgentRefused(vm=self._vm, command=name, reason=reason) from error
        raise GuestAgentRefused(vm=self._vm, command=name, reason=answer.error.desc[:500])


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode(errors="replace")
    except ValueError:
        return "(output that cannot be decoded)"
