"""What is put into a guest for one freeze, and taken away: a guard that thaws whatever happens, the owner's scripts."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from holdfast_agent.errors import GuestProcessingFailed, PlatformError
from holdfast_plugins.api import ConsistencyLevel, Finished, InGuest

from .options import GuestOptions

_GUARD = Path(__file__).with_name("guard.sh")
_STEP_TIMEOUT_S = 60.0
"""For the guard's own steps: each of a few databases takes 20 s at most."""
_SLACK_S = 10.0
_MAX_SCRIPT_BYTES = 1 << 20
_TIMED_OUT = (124, 137, 143, -9, -15)
"""Exit codes of what `timeout` has ended: coreutils tells 124, busybox the signal."""
_LAST_LINES = 10
_DIRECTORY = re.compile(r"/(run|dev/shm)/holdfast\.[A-Za-z0-9]{8}")
TOO_EARLY = "the deadline passed before the snapshot was there, and the guest was thawed"
_MAKE_DIRECTORY = (
    "for base in /run /dev/shm; do "
    'if grep -q "^[^ ]* $base tmpfs " /proc/mounts; then exec mktemp -d "$base/holdfast.XXXXXXXX"; fi; '
    "done; echo neither /run nor /dev/shm is a tmpfs >&2; exit 1"
)


# A database's client that was let go just now may make its last file meanwhile, and the directory is not empty then.
_REMOVE = 'rm -rf "$1" || rm -rf "$1"'


class Held(msgspec.Struct, frozen=True):
    """What became of the databases. ``failed``: by name, why one could not be held."""

    held: tuple[str, ...] = ()
    failed: dict[str, str] = {}

    @classmethod
    def read(cls, lines: Sequence[str]) -> Held:
        """What the guard told of each."""
        held, failed = [], {}
        for line in lines:
            words = line.split(" ", 3)
            if words[0] == "database" and words[2:] == ["held"]:
                held.append(words[1])
            elif words[0] == "database" and words[2:3] == ["failed"]:
                failed[words[1]] = words[3] if len(words) > 3 else "no reason given"
        return cls(tuple(held), failed)

    @property
    def shortfall(self) -> str:
        return "; ".join(f"{name} is not held: {reason}" for name, reason in sorted(self.failed.items()))

    def consistency(self, options: GuestOptions) -> ConsistencyLevel:
        """What the freeze achieves with them: applications are at rest if all that are known of are."""
        at_rest = bool(self.held) or options.consistency is ConsistencyLevel.APPLICATION
        return ConsistencyLevel.APPLICATION if at_rest and not self.failed else ConsistencyLevel.FILE_SYSTEM

    def note(self, file_systems: int) -> str:
        systems = f"{file_systems} file system{'s' if file_systems != 1 else ''} frozen"
        return f"{systems}, {' and '.join(self.held)} held" if self.held else systems


class Deployment:
    """The guard and the scripts in one guest. Not thread-safe.

    All methods raise ``GuestProcessingFailed``, or a ``PlatformError`` of the way into the guest.
    """

    def __init__(self, guest: InGuest, vm: str, options: GuestOptions) -> None:
        self._guest = guest
        self._vm = vm
        self._options = options
        self._scripts = {
            phase: script
            for phase, path in (("pre-freeze", options.pre_freeze), ("post-thaw", options.post_thaw))
            if (script := self._read(phase, path))
        }
        made = self._step("deploy", ["sh", "-c", _MAKE_DIRECTORY]).output.strip()
        if not _DIRECTORY.fullmatch(made):
            raise self._failed("deploy", f"the guest made the directory {made[:100]!r}")
        self._directory = made
        self.guard = f"{made}/guard"
        try:
            guest.put(self.guard, _GUARD.read_bytes())
            for phase, script in self._scripts.items():
                guest.put(f"{made}/{phase}", script)
        except BaseException:
            self.remove()
            raise

    def guard_command(self, mode: str, deadline_s: float) -> list[str]:
        """How the guard is run to hold databases, or for a session that freezes."""
        options = self._options
        return [
            "sh", self.guard, mode, self._directory, str(math.ceil(deadline_s)), options.wanted_databases,
            options.postgresql_user, options.mysql_defaults_file,
        ]  # fmt: skip

    def hold(self, deadline_s: float) -> Held:
        """Start the watchdog and hold the databases."""
        return Held.read(self._step("hold", self.guard_command("hold", deadline_s)).output.splitlines())

    def release(self) -> str:
        """Let the databases go and end the watchdog. Returns what happened too early; empty if nothing did."""
        told = self._step("release", ["sh", self.guard, "release", self._directory]).output.split("\n")
        return early(told)

    def run_script(self, phase: str) -> None:
        """Run the owner's script of that phase, if there is one."""
        script = self._scripts.get(phase)
        if script is None:
            return
        timeout_s = self._options.timeout_s
        command = [
            "env", f"HOLDFAST_VM={self._vm}", f"HOLDFAST_PHASE={phase}", "timeout", "-k", "5", f"{timeout_s:g}",
            *interpreter(script), f"{self._directory}/{phase}",
        ]  # fmt: skip
        began = time.monotonic()
        done = self._guest.run(command, timeout_s + _SLACK_S)
        if done.code:
            over = done.code in _TIMED_OUT and time.monotonic() - began >= timeout_s
            ended = f"it was stopped after {timeout_s:g} s" if over else f"exit code {done.code}"
            raise self._failed(phase, ended + last_words(done))

    def remove(self) -> None:
        """Take away all that was put into the guest; what fails is left to the guard, which ends by itself."""
        with contextlib.suppress(PlatformError):
            self._guest.run(["sh", "-c", _REMOVE, "sh", self._directory], _STEP_TIMEOUT_S)

    def _read(self, phase: str, path: str) -> bytes:
        if not path:
            return b""
        try:
            with Path(path).open("rb") as file:
                script = file.read(_MAX_SCRIPT_BYTES + 1)
        except OSError as error:
            raise self._failed(phase, f"{path} cannot be read: {error.strerror}") from error
        if not 0 < len(script) <= _MAX_SCRIPT_BYTES:
            raise self._failed(phase, f"{path} is empty or larger than {_MAX_SCRIPT_BYTES} bytes")
        return script

    def _step(self, phase: str, command: Sequence[str]) -> Finished:
        done = self._guest.run(command, _STEP_TIMEOUT_S)
        if done.code:
            raise self._failed(phase, f"exit code {done.code}{last_words(done)}")
        return done

    def _failed(self, phase: str, reason: str) -> GuestProcessingFailed:
        return GuestProcessingFailed(vm=self._vm, phase=phase, reason=reason)


def after_thaw(deployment: Deployment) -> str:
    """All that follows a thaw, of which each is done whatever becomes of the others. Returns what ended too early."""
    with ExitStack() as steps:
        steps.callback(deployment.remove)
        steps.callback(deployment.run_script, "post-thaw")
        return deployment.release()


def early(told: Sequence[str]) -> str:
    """What the guard tells of things that ended before the snapshot was there."""
    if "fired" in told:
        return TOO_EARLY
    lost = [line.removeprefix("lost ") for line in told if line.startswith("lost ")]
    return f"{' and '.join(lost)} went on before the snapshot was there" if lost else ""


def interpreter(script: bytes) -> list[str]:
    """What runs a script. The guest's tmpfs may forbid to run it by itself."""
    line = script.partition(b"\n")[0]
    if not line.startswith(b"#!"):
        return ["sh"]
    return line[2:].decode(errors="replace").strip().split(maxsplit=1) or ["sh"]


def last_words(done: Finished) -> str:
    lines = [*done.output.splitlines(), *done.errors.splitlines()][-_LAST_LINES:]
    return f"; its last words: {' | '.join(lines)[-2000:]}" if lines else ""
