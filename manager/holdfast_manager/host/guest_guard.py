"""What stands between a session and what plugins do in guests: see :mod:`.driver_guard`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from holdfast_plugins.api import (
    AgentChannel,
    ConsistencyLevel,
    Finished,
    FreezeHandle,
    GuestAccess,
    GuestProcessor,
    InGuest,
    VmInfo,
    VmRef,
)

from .boundary import Boundary

T = TypeVar("T")
SLACK_S = 30.0
"""For what should answer at once, or has a time-out of its own."""


class GuardedAgentChannel:
    """An ``AgentChannel`` around a hypervisor plugin's; it is another plugin that uses it."""

    def __init__(self, plugin: str, channel: AgentChannel) -> None:
        self._boundary = Boundary(plugin)
        self._channel = channel

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        return self._boundary.call(
            "exchange", lambda: self._channel.exchange(command, timeout_s), limit_s=timeout_s + SLACK_S
        )


class GuardedInGuest:
    """An ``InGuest`` around a hypervisor plugin's; it is another plugin that uses it."""

    def __init__(self, plugin: str, guest: InGuest) -> None:
        self._boundary = Boundary(plugin)
        self._guest = guest

    def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        return self._boundary.call("run", lambda: self._guest.run(command, timeout_s), limit_s=timeout_s + SLACK_S)

    def put(self, path: str, data: bytes) -> None:
        self._boundary.call("put", lambda: self._guest.put(path, data))


class GuardedFreezeHandle:
    """A ``FreezeHandle`` around a plugin's."""

    def __init__(self, boundary: Boundary, vm: VmRef, handle: FreezeHandle) -> None:
        self._boundary = boundary
        self._vm = vm
        self._handle = handle

    @property
    def consistency(self) -> ConsistencyLevel:
        return self._told("consistency", lambda: ConsistencyLevel(self._handle.consistency))

    @property
    def note(self) -> str:
        return self._told("note", lambda: str(self._handle.note))

    @property
    def shortfall(self) -> str:
        return self._told("shortfall", lambda: str(self._handle.shortfall))

    def thaw(self) -> None:
        self._boundary.call("thaw", lambda: self._handle.thaw(), self._vm.vm_id)

    def _told(self, what: str, tell: Callable[[], T]) -> T:
        return self._boundary.call(what, tell, self._vm.vm_id, SLACK_S)


class GuardedGuestProcessor:
    """A ``GuestProcessor`` around a plugin's."""

    def __init__(self, plugin: str, processor: GuestProcessor) -> None:
        self._boundary = Boundary(plugin)
        self._processor = processor

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        handle = self._boundary.call("freeze", lambda: self._processor.freeze(vm, access, deadline_s), vm.ref.vm_id)
        return GuardedFreezeHandle(self._boundary, vm.ref, handle)

    def close(self) -> None:
        self._boundary.close(lambda: self._processor.close())
