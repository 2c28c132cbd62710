"""The life of a boot proof: start the machine, watch it until it is up, it cannot come up, or time is over."""

from __future__ import annotations

import contextlib
import logging
import select
import shutil
import tempfile
import time
from pathlib import Path

from holdfast_agent.errors import UsageError
from holdfast_agent.export.folder import SOCKET_NAME, folder_of
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.mover.control import Control
from holdfast_agent.mover.life import live
from holdfast_agent.wire.movers import Connected, Finished
from holdfast_agent.wire.specs import BootProof, BootSpec, BootWish, MoverResult

from .guest_command import GuestCommand
from .machine import Machine

_LOOK_S = 0.2
_ASK_EVERY_S = 1.0
_SCREEN_S = 10.0
_MOST_SCREEN_BYTES = 2 << 20
_CONSOLE_BYTES = 8 << 10
_SYNC = 0x486F6C64  # the number that the guest's agent must give back
_log = logging.getLogger("holdfast.boot")


def main() -> None:
    """Entry point of ``python -m holdfast_agent.boot``."""
    live("boot proof", lambda control: Finished(result=MoverResult(boot=_proof(control)), counters=TransferCounters()))


def _proof(control: Control) -> BootProof:
    setup = control.setup()
    if not isinstance(setup.spec, BootSpec) or setup.host.exports is None:
        raise UsageError(reason="a boot proof was given another task")
    spec, host = setup.spec, setup.host
    _check(spec)
    export = folder_of(Path(setup.host.exports.directory), spec.export) / SOCKET_NAME
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="boot-", dir=host.runtime_dir))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        machine = Machine(spec, dict.fromkeys(spec.disks, export), folder, host.agent)
        stack.callback(machine.close)
        control.report(Connected())
        return _watch(spec, machine, control)


def _watch(spec: BootSpec, machine: Machine, control: Control) -> BootProof:
    """Until it is known. Raises :class:`Cancelled`."""
    began = time.monotonic()
    ask_at, up, proved, reason = 0.0, False, False, ""
    command = GuestCommand(spec.text)
    while not proved and not reason:
        select.select([*machine.fds, *control.fds], [], [], _LOOK_S)
        control.take()
        reason = machine.look()
        now = time.monotonic()
        if now >= ask_at and not up:
            ask_at = now + _ASK_EVERY_S
            machine.guest_agent.send({"execute": "guest-sync", "arguments": {"id": _SYNC}})
        said = list(machine.guest_agent.take())
        up = up or any(message.get("return") == _SYNC for message in said)
        if spec.wish is BootWish.COMMAND and up:
            command.take(said, now)
            if asked := command.request(now):
                machine.guest_agent.send(asked)
        if spec.wish is BootWish.AGENT and up:
            proved, reason = True, "its guest agent answered"
        elif spec.wish is BootWish.COMMAND and command.proved:
            proved, reason = True, f"the command {spec.text!r} ended with 0 in it"
        elif spec.wish is BootWish.COMMAND and command.refused:
            reason = command.refused
        elif spec.wish is BootWish.CONSOLE and spec.text.encode() in machine.console:
            proved, reason = True, f"its console said {spec.text!r}"
        elif not reason and now - began > spec.timeout_s:
            reason = f"it did not come up within {spec.timeout_s:g} s"
            if spec.wish is BootWish.COMMAND and up:
                reason = (
                    f"the command {spec.text!r} did not end with 0 in it within {spec.timeout_s:g} s: {command.told}"
                )
        time.sleep(0.01)  # whoever floods the console is listened to a hundred times a second, not more
    seconds = time.monotonic() - began
    picture = machine.screenshot(_SCREEN_S, _MOST_SCREEN_BYTES)
    console = machine.console[-_CONSOLE_BYTES:].decode(errors="replace")
    return BootProof(proved=proved, reason=reason, seconds=seconds, console=console, screenshot=picture)


def _check(spec: BootSpec) -> None:
    if not 0 < len(spec.disks) <= 6:
        raise UsageError(reason="a boot proof is of one to six disks")
    if not 64 <= spec.memory_mib <= 1 << 20 or not 1 <= spec.cpus <= 64 or not 1 <= spec.timeout_s <= 86400:
        raise UsageError(reason="memory, CPUs or time of a boot proof are out of bounds")
    if spec.wish is BootWish.CONSOLE and not 0 < len(spec.text) <= 200:
        raise UsageError(reason="the text to look for on the console has 1 to 200 characters")
    if spec.wish is BootWish.COMMAND and not 0 < len(spec.text) <= 1000:
        raise UsageError(reason="the command to run in the guest has 1 to 1000 characters")
