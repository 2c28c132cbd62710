"""Steps 7 and 8 as one: quiesce the guest, take the snapshot, thaw at once, on every path."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from holdfast_agent.errors import GuestProcessingFailed, HoldfastError
from holdfast_manager.catalog.values import GuestPolicy
from holdfast_plugins.api import ConsistencyLevel, FreezeHandle, GuestProcessor, Snapshot, VmInfo

FREEZE_DEADLINE_S = 60.0
"""How long a guest may be held at most. The snapshot takes a fraction of a second; a minute means that it hangs."""


class Guest(msgspec.Struct, frozen=True):
    """How guests of the job are quiesced."""

    processor: GuestProcessor
    policy: GuestPolicy


class Quiesced(msgspec.Struct, frozen=True):
    """What came of it. ``warning``: what was not achieved although it was asked for."""

    consistency: ConsistencyLevel
    frozen_s: float
    note: str
    warning: str = ""


def snapshot_quiesced(
    guest: Guest | None, vm: VmInfo, take: Callable[[], Snapshot], discard: Callable[[Snapshot], None]
) -> tuple[Snapshot, Quiesced]:
    """Take a snapshot with the guest held still.

    Raises what ``take`` raises, and ``GuestProcessingFailed`` where the policy is to require quiescing; a snapshot that
    is not good enough then is discarded before. When the thaw finds that the guest ran on too early, the snapshot is
    only crash-consistent, and is treated so.
    """
    if guest is None or guest.policy is GuestPolicy.SKIP:
        return take(), Quiesced(ConsistencyLevel.CRASH, 0.0, "not asked for")
    try:
        handle = guest.processor.freeze(vm, FREEZE_DEADLINE_S)
    except GuestProcessingFailed as error:
        if guest.policy is GuestPolicy.REQUIRE:
            raise
        return take(), Quiesced(ConsistencyLevel.CRASH, 0.0, "failed", str(error))
    began = time.monotonic()
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
        return snapshot, Quiesced(ConsistencyLevel.CRASH, time.monotonic() - began, "thaw failed", str(error))
    return snapshot, Quiesced(handle.consistency, time.monotonic() - began, "frozen for the snapshot")


def _thaw_anyway(handle: FreezeHandle, first: BaseException) -> None:
    try:
        handle.thaw()
    except HoldfastError as error:
        first.add_note(f"and the guest could not be thawed: {error}")
