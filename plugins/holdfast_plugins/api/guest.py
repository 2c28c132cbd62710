"""The protocols of guest processors, and of the ways into a guest that a hypervisor offers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from .values import ConsistencyLevel, VmInfo, VmRef


class AgentChannel(Protocol):
    """How commands reach qemu-guest-agent in one guest. Used by one thread at a time; holds nothing between calls."""

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        """Send one command and return its answer; both are JSON objects as the agent's protocol has them.

        The answer is that of this command, never the late one of an earlier: ``{"return": …}``, or ``{"error":
        {"desc": …}}`` when the agent refused. Raises ``GuestAgentSilent`` (retryable) when there is no agent, or no
        answer within ``timeout_s``; the command may still be carried out when the agent wakes.
        """
        ...


@runtime_checkable
class OffersGuestAgent(Protocol):
    """What a ``HypervisorDriver`` has besides if it reaches qemu-guest-agent in its guests."""

    def guest_agent(self, vm: VmRef) -> AgentChannel:
        """The channel of a VM. Called for each freeze, before the snapshot; quick, without asking the agent anything.

        Raises ``GuestAgentSilent`` when the VM has none, or ``VmNotFound``.
        """
        ...


class Finished(msgspec.Struct, frozen=True):
    """A program that has ended. ``code`` is its exit code, or the negative number of the signal that ended it.

    ``output`` and ``errors``: what it wrote to both streams, as UTF-8 with what is none replaced. They come from a
    guest, which may be hostile: whoever made the ``InGuest`` bounds them.
    """

    code: int
    output: str
    errors: str = ""


class InGuest(Protocol):
    """One guest in which programs can be run, reached somehow. Used by one thread at a time."""

    def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        """Run a program to its end, as root or as near to it as the way allows, and return what it printed.

        ``command``: the program's path and its arguments, no shell's words. An exit code other than 0 is no error here.
        Raises a ``PlatformError`` when it cannot be started, or takes longer than ``timeout_s``; it may go on running
        in the guest then.
        """
        ...

    def put(self, path: str, data: bytes) -> None:
        """Make or replace the file at the absolute ``path``, closed to others where the way lets that be said.

        Some KiB at most. Raises a ``PlatformError``; a part of the file may be there then.
        """
        ...


@runtime_checkable
class OffersPrograms(Protocol):
    """What a ``HypervisorDriver`` has besides if it can run programs in its guests by tools of its own."""

    def programs(self, vm: VmRef) -> InGuest:
        """The way into a VM's guest. Called for each freeze, before the snapshot.

        Raises ``GuestProcessingFailed`` when there is none, or ``VmNotFound``.
        """
        ...


class GuestAccess(Protocol):
    """The ways into one guest that its hypervisor offers. Made by the session; valid until the guest is thawed."""

    def agent(self) -> AgentChannel:
        """Raises ``GuestAgentSilent`` when the hypervisor offers none for this guest."""
        ...

    def programs(self) -> InGuest:
        """Raises ``GuestProcessingFailed`` when the hypervisor runs no programs in this guest."""
        ...


class FreezeHandle(Protocol):
    """A quiesced guest. It has a deadline of its own and thaws by itself when nobody does in time.

    Also when the session's process is killed: the deadline is kept in the guest, or by a process of its own. Used by
    one thread; ``consistency``, ``note`` and ``shortfall`` are read once, before the snapshot, and answer at once.
    """

    @property
    def consistency(self) -> ConsistencyLevel:
        """What was achieved."""
        ...

    @property
    def note(self) -> str:
        """What was done, for people; one line."""
        ...

    @property
    def shortfall(self) -> str:
        """What was asked for beyond ``consistency`` and not achieved, with the reason; empty when nothing was."""
        ...

    def thaw(self) -> None:
        """Let the guest go on. Idempotent. Called at once after the snapshot, on every path.

        Raises ``GuestProcessingFailed`` when the guest was thawed before (by the deadline: the snapshot is then
        only crash-consistent), or when a post-thaw action failed; the guest runs in either case.
        """
        ...


class GuestProcessor(Protocol):
    """Quiesces guests of one job. Made by the registered factory with the job's guest options.

    Lives in one session's process. ``freeze`` is called from several threads at once, never by two for the same VM.
    """

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        """Quiesce the guest for at most ``deadline_s`` seconds, counted from when it is at rest.

        Called for each try of each VM, when its movers are connected and directly before the snapshot.
        A part that fails and leaves something worth having is the handle's ``shortfall``; the session decides by the
        job's policy whether that is enough. On an error the guest is thawed before this returns. Raises
        ``GuestProcessingFailed``.
        """
        ...

    def close(self) -> None:
        """Called once, last, with no guest frozen: removes anything deployed into guests. Must not raise."""
        ...
