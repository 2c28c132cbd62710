"""The guest processor `ssh`: freezes Linux guests that have no agent, by OpenSSH's client.

One connection stays open from before the freeze until after the thaw, for a guest may not let anybody in while it is
frozen. At its other end a guard freezes and thaws: it thaws at once when the connection ends, so also when this host
does, and at the latest when its time is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from holdfast_agent.errors import GuestProcessingFailed, PlatformError, ToolMissing
from holdfast_plugins.api import Finished, FreezeHandle, GuestAccess, Registry, VmInfo

from .deployment import TOO_EARLY, Deployment, Held, early
from .frozen import FrozenGuests
from .options import GuestOptions

_HOST = re.compile(r"[A-Za-z0-9:_.][A-Za-z0-9:_.%-]{0,252}")
_ACCOUNT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,63}")
_CONNECT_S = 15
_ALIVE_S, _ALIVE_TIMES = 5, 3
_FREEZE_S = 90.0
_THAW_S = 60.0
_CONNECTION_FAILED = 255
_NO_SSH = partial(ToolMissing, tool="ssh", host="the manager's host", package="openssh-client")


class SshOptions(GuestOptions, frozen=True):
    """``key_file``: a private key of this host that only the manager can read; without one ssh takes those it knows.

    ``address``: where guests are reached, with ``{vm}`` for the VM's name. ``addresses``: by name, for those that are
    reached elsewhere. ``user``: root, or one that may become root with ``sudo``, without a password.
    ``known_hosts_file``: what guests' host keys must match; an unknown one is refused.
    """

    key_file: str = ""
    address: str = "{vm}"
    addresses: dict[str, str] = msgspec.field(default_factory=dict)
    port: int = 22
    user: str = "root"
    sudo: bool = False
    known_hosts_file: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for path in (self.key_file, self.known_hosts_file):
            if path and not Path(path).is_absolute():
                raise ValueError(f"the path of a file must be absolute, not {path!r}")
        for address in (self.address.replace("{vm}", "vm"), *self.addresses.values()):
            if not _HOST.fullmatch(address):
                raise ValueError(f"{address!r} is not an address")
        if not _ACCOUNT.fullmatch(self.user):
            raise ValueError(f"{self.user!r} is not the name of an account")
        if not 0 < self.port < 65536:
            raise ValueError("port must be from 1 to 65535")

    def address_of(self, vm: str) -> str:
        """Raises ``GuestProcessingFailed`` for a name that gives no address."""
        address = self.addresses.get(vm) or self.address.replace("{vm}", vm)
        if not _HOST.fullmatch(address):
            raise GuestProcessingFailed(vm=vm, phase="ssh", reason=f"{address!r} is not an address; set `addresses`")
        return address


class SshProcessor:
    """A ``GuestProcessor``. Thread-safe: freezes have nothing in common."""

    def __init__(self, options: SshOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._frozen = FrozenGuests()

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        guest = SshGuest(self._options, vm.ref.name)
        handle = SshFreeze(guest, vm.ref.name, self._options, deadline_s)
        return self._frozen.add(handle)

    def close(self) -> None:
        """Thaw what nobody thawed."""
        self._frozen.thaw_all()


class SshGuest:
    """An ``InGuest`` by OpenSSH's client, a connection for each program. Raises ``GuestProcessingFailed``."""

    def __init__(self, options: SshOptions, vm: str) -> None:
        self._vm = vm
        self._sudo = ["sudo", "-n"] if options.sudo else []
        settings = [
            "BatchMode=yes", "StrictHostKeyChecking=yes", "LogLevel=ERROR", "ForwardAgent=no", "ForwardX11=no",
            "ClearAllForwardings=yes", "ControlMaster=no", f"ConnectTimeout={_CONNECT_S}",
            f"ServerAliveInterval={_ALIVE_S}", f"ServerAliveCountMax={_ALIVE_TIMES}",
        ]  # fmt: skip
        if options.key_file:
            settings += ["IdentitiesOnly=yes", f"IdentityFile={_quoted(options.key_file)}"]
        if options.known_hosts_file:
            settings += [f"UserKnownHostsFile={_quoted(options.known_hosts_file)}", "GlobalKnownHostsFile=none"]
        self._ssh = ["ssh", "-T", "-x", "-p", str(options.port), "-l", options.user]
        for setting in settings:
            self._ssh += ["-o", setting]
        self._ssh += ["--", options.address_of(vm)]

    def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        return self._run(command, timeout_s, b"")

    def put(self, path: str, data: bytes) -> None:
        done = self._run(["sh", "-c", 'umask 077; exec cat >"$0"', path], _FREEZE_S, data)
        if done.code:
            raise self.failed("deploy", f"{path} could not be written: {done.errors[-500:].strip()}")

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Begin to run a program that is spoken to; what it complains of is not read."""
        try:
            return subprocess.Popen(
                self._command(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                bufsize=0, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise _NO_SSH() from error

    def failed(self, phase: str, reason: str) -> GuestProcessingFailed:
        return GuestProcessingFailed(vm=self._vm, phase=phase, reason=reason)

    def _run(self, command: Sequence[str], timeout_s: float, stdin: bytes) -> Finished:
        try:
            done = subprocess.run(
                self._command(command), input=stdin, capture_output=True, check=False, timeout=timeout_s,
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise _NO_SSH() from error
        except subprocess.TimeoutExpired as error:
            raise self.failed("ssh", f"{command[0]} has not ended within {timeout_s:g} s") from error
        finished = Finished(done.returncode, _text(done.stdout), _text(done.stderr))
        if done.returncode == _CONNECTION_FAILED:
            raise self.failed("ssh", " | ".join(finished.errors.split("\n"))[-500:].strip(" |\r") or "it failed")
        return finished

    def _command(self, command: Sequence[str]) -> list[str]:
        """SSH hands the guest one string, which its shell splits again."""
        return [*self._ssh, shlex.join([*self._sudo, *command])]


class SshFreeze:
    """A ``FreezeHandle``: the near end of a guard in the guest. Made frozen, or not at all."""

    def __init__(self, guest: SshGuest, vm: str, options: SshOptions, deadline_s: float) -> None:
        self._guest = guest
        self._lock = threading.Lock()
        self._thawed = False
        self._deployment = Deployment(guest, vm, options)
        self._guard: Conversation | None = None
        try:
            self._deployment.run_script("pre-freeze")
            command = self._deployment.guard_command("session", min(deadline_s, options.freeze_limit_s))
            self._guard = Conversation(guest.start(command))
            told = self._guard.lines("frozen ", _FREEZE_S)
            if told is None:
                raise guest.failed("freeze", "the guard in the guest did not answer in time, or the connection broke")
            if told[-1].startswith("failed "):
                raise guest.failed("freeze", told[-1].removeprefix("failed "))
            self._frozen = int(told[-1].split()[1])
            if self._frozen < 1:
                raise guest.failed("freeze", "the guest has no file system that can be frozen")
        except BaseException as first:
            try:
                self._end()
            except PlatformError as error:
                first.add_note(f"and afterwards: {error}")
            raise
        held = Held.read(told)
        self.consistency = held.consistency(options)
        self.shortfall = held.shortfall
        self.note = held.note(self._frozen)

    def thaw(self) -> None:
        with self._lock:
            if self._thawed:
                return
            self._thawed = True
            told = None if self._guard is None else self._guard.ask("thaw", "finished", _THAW_S)
            self._end()
        if told is None:
            raise self._guest.failed("thaw", "the connection broke while the guest was frozen; its guard has thawed it")
        thawed = next((line.split() for line in told if line.startswith("thawed ")), [])
        if thawed[1:2] != ["thaw"] or thawed[2:] != [str(self._frozen)]:
            raise self._guest.failed("freeze", TOO_EARLY)
        if reason := early(told):
            raise self._guest.failed("freeze", reason)

    def _end(self) -> None:
        """Close the connection, which thaws what is frozen; run the owner's script, take away what was deployed."""
        with contextlib.ExitStack() as steps:
            steps.callback(self._deployment.remove)
            steps.callback(self._deployment.run_script, "post-thaw")
            if self._guard is not None:
                self._guard.close(_THAW_S)


class Conversation:
    """Lines to and from a process that was started with pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._buffered = b""

    def ask(self, word: str, last: str, timeout_s: float) -> list[str] | None:
        """Say ``word`` and return the lines of the answer; see :meth:`lines`."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).write(word.encode() + b"\n")
        return self.lines(last, timeout_s)

    def lines(self, last: str, timeout_s: float) -> list[str] | None:
        """Lines up to the one that begins with ``last`` or with "failed "; None when it does not come."""
        descriptor = _pipe(self._process.stdout).fileno()
        end = time.monotonic() + timeout_s
        found: list[str] = []
        while not found or not found[-1].startswith((last, "failed ")):
            if b"\n" not in self._buffered:
                ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
                data = os.read(descriptor, 65536) if ready else b""
                if not data or len(self._buffered) > 1 << 20:
                    return None
                self._buffered += data
                continue
            line, _, self._buffered = self._buffered.partition(b"\n")
            found.append(_text(line))
        return found

    def close(self, patience_s: float) -> None:
        """End the other side's input and wait for it."""
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 (both are asked for in SshGuest.start; narrows the type)
    return stream


def _quoted(path: str) -> str:
    """A path in a setting of ssh, which splits at blanks and expands percent signs."""
    return '"' + path.replace("%", "%%") + '"'


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def holdfast_register_guest_processors(registry: Registry) -> None:
    registry.guest_processor(
        "ssh",
        SshProcessor,
        summary="freezes Linux guests and holds their databases over SSH",
        options_type=SshOptions,
    )
