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
        """The channel of a VM. Raises ``GuestAgentSilent`` when the VM has none, or ``VmNotFound``."""
        ...


class Finished(msgspec.Struct, frozen=True):
    """A program that has ended. ``code`` is its exit code, or the negative number of the signal that ended it."""

    code: int
    output: str
    errors: str = ""


class InGuest(Protocol):
    """One guest in which programs can be run, reached somehow. Used by one thread at a time."""

    def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        """Run a program to its end and return what it printed. Raises a ``PlatformError`` when it takes longer."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Make or replace a file. Raises a ``PlatformError``."""
        ...


@runtime_checkable
class OffersPrograms(Protocol):
    """What a ``HypervisorDriver`` has besides if it can run programs in its guests by tools of its own."""

    def programs(self, vm: VmRef) -> InGuest:
        """The way into a VM's guest. Raises ``GuestProcessingFailed`` when there is none, or ``VmNotFound``."""
        ...


class GuestAccess(Protocol):
    """The ways into one guest that its hypervisor offers."""

    def agent(self) -> AgentChannel:
        """Raises ``GuestAgentSilent`` when the hypervisor offers none for this guest."""
        ...

    def programs(self) -> InGuest:
        """Raises ``GuestProcessingFailed`` when the hypervisor runs no programs in this guest."""
        ...


class FreezeHandle(Protocol):
    """A quiesced guest. It has a deadline of its own and thaws by itself when nobody does in time."""

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
    """Quiesces guests of one job. Made by the registered factory with the job's guest options."""

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        """Quiesce the guest for at most ``deadline_s``.

        A part that fails and leaves something worth having is the handle's ``shortfall``; the session decides by the
        job's policy whether that is enough. On an error the guest is thawed before this returns. Raises
        ``GuestProcessingFailed``.
        """
        ...

    def close(self) -> None:
        """Called once, last. Must not raise; removes anything deployed into guests."""
        ...
