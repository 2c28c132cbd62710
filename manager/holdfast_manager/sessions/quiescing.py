"""Steps 7 and 8 as one: quiesce the guest, take the snapshot, thaw at once, on every path."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from holdfast_agent.errors import GuestAgentSilent, GuestProcessingFailed, HoldfastError
from holdfast_manager.catalog.values import GuestPolicy
from holdfast_plugins.api import (
    AgentChannel,
    ConsistencyLevel,
    FreezeHandle,
    GuestAccess,
    GuestProcessor,
    HypervisorDriver,
    InGuest,
    OffersGuestAgent,
    OffersPrograms,
    Snapshot,
    VmInfo,
    VmRef,
)

FREEZE_DEADLINE_S = 60.0
"""How long a guest may be held at most. The snapshot takes a fraction of a second; a minute means that it hangs."""


class Guest(msgspec.Struct, frozen=True):
    """How guests of the job are quiesced."""

    processor: GuestProcessor
    policy: GuestPolicy


class Quiesced(msgspec.Struct, frozen=True):
    """How the guest was when the snapshot was taken. ``warning``: what was asked for and not achieved."""

    consistency: ConsistencyLevel
    note: str
    took_s: float = 0.0
    warning: str = ""


class Taken(msgspec.Struct, frozen=True):
    """The snapshot, what its data is like, and for how long the guest was held. ``warning``: as above."""

    snapshot: Snapshot
    consistency: ConsistencyLevel
    frozen_s: float = 0.0
    warning: str = ""


class DriverAccess:
    """A ``GuestAccess``: what the driver of the VM's hypervisor offers."""

    def __init__(self, driver: HypervisorDriver, vm: VmRef) -> None:
        self._driver = driver
        self._vm = vm

    def agent(self) -> AgentChannel:
        if isinstance(self._driver, OffersGuestAgent):
            return self._driver.guest_agent(self._vm)
        raise GuestAgentSilent(vm=self._vm.name, reason="its hypervisor has no channel to it")

    def programs(self) -> InGuest:
        if isinstance(self._driver, OffersPrograms):
            return self._driver.programs(self._vm)
        reason = "its hypervisor runs no programs in guests"
        raise GuestProcessingFailed(vm=self._vm.name, phase="programs", reason=reason)


def snapshot_quiesced(
    guest: Guest | None,
    vm: VmInfo,
    access: GuestAccess,
    take: Callable[[], Snapshot],
    discard: Callable[[Snapshot], None],
    announce: Callable[[Quiesced], None],
) -> Taken:
    """Take a snapshot with the guest held still. ``announce`` is told of the guest before the snapshot is taken.

    A guest that was quiesced in part only is frozen all the same if the policy takes what can be had, and says so.

    Raises what ``take`` raises, and ``GuestProcessingFailed`` where the policy is to require quiescing; a snapshot that
    is not good enough then is discarded before. When the thaw finds that the guest ran on too early, the snapshot is
    only crash-consistent, and is treated so.
    """
    began = time.monotonic()
    handle, quiesced = _freeze(guest, vm, access)
    announce(msgspec.structs.replace(quiesced, took_s=time.monotonic() - began))
    if guest is None or handle is None:
        return _taken(take(), quiesced.consistency)
    frozen_at = time.monotonic()
    try:
        snapshot = take()
    except BaseException as first:
        _thaw_anyway(handle, first)
        raise
    try:
        handle.thaw()
    except GuestProcessingFailed as error:
        if guest.policy is GuestPolicy.REQUIRE:
            discard(snapshot)
            raise
        return _taken(snapshot, ConsistencyLevel.CRASH, time.monotonic() - frozen_at, str(error))
    if snapshot.warning and guest.policy is GuestPolicy.REQUIRE:
        discard(snapshot)
        raise GuestProcessingFailed(vm=vm.ref.name, phase="snapshot", reason=snapshot.warning)
    return _taken(snapshot, quiesced.consistency, time.monotonic() - frozen_at)


def better(one: ConsistencyLevel, other: ConsistencyLevel) -> ConsistencyLevel:
    """The level that promises more."""
    return max(one, other, key=list(ConsistencyLevel).index)


def _freeze(guest: Guest | None, vm: VmInfo, access: GuestAccess) -> tuple[FreezeHandle | None, Quiesced]:
    if guest is None or guest.policy is GuestPolicy.SKIP:
        return None, Quiesced(ConsistencyLevel.CRASH, "not asked for")
    try:
        handle = guest.processor.freeze(vm, access, FREEZE_DEADLINE_S)
    except GuestProcessingFailed as error:
        if guest.policy is GuestPolicy.REQUIRE:
            raise
        return None, Quiesced(ConsistencyLevel.CRASH, "failed", warning=str(error))
    try:
        if handle.shortfall and guest.policy is GuestPolicy.REQUIRE:
            raise GuestProcessingFailed(vm=vm.ref.name, phase="freeze", reason=handle.shortfall)
        return handle, Quiesced(handle.consistency, handle.note, warning=handle.shortfall)
    except BaseException as first:
        _thaw_anyway(handle, first)
        raise


def _taken(snapshot: Snapshot, consistency: ConsistencyLevel, frozen_s: float = 0.0, warning: str = "") -> Taken:
    """With what the hypervisor says that it could not do: disks of several instants hold no freeze."""
    if snapshot.warning:
        consistency, warning = ConsistencyLevel.CRASH, "; ".join(filter(None, (warning, snapshot.warning)))
    return Taken(snapshot, consistency, frozen_s, warning)


def _thaw_anyway(handle: FreezeHandle, first: BaseException) -> None:
    try:
        handle.thaw()
    except HoldfastError as error:
        first.add_note(f"and the guest could not be thawed: {error}")
