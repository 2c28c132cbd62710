"""What the state machines want done. The driver carries each out and reports back with an event.

Names are imperative. Each says which events may answer it.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from holdfast_manager.steps import Step

from .events import TaskKey


class Instruction(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of all instructions. ``step`` is what the session log counts its time under."""

    step: ClassVar[Step] = Step.START


class PlanVms(Instruction, frozen=True, tag=True, kw_only=True):
    """List the VMs and disks → VmsPlanned, SessionFailed."""


class EndSession(Instruction, frozen=True, tag=True, kw_only=True):
    """Record the outcome and leave; nothing answers it. ``result``: success, warning, partial, failed, cancelled."""

    result: str


# --- task ---------------------------------------------------------------------------------------------------------


class TaskInstruction(Instruction, frozen=True, tag=True, kw_only=True):
    """Base of instructions about one task. A failure comes back as TaskFailed."""

    task: TaskKey


class RequestSlot(TaskInstruction, frozen=True, tag=True, kw_only=True):
    """Queue for a proxy and the repository → SlotGranted."""

    step: ClassVar[Step] = Step.SCHEDULE


class StartMovers(TaskInstruction, frozen=True, tag=True, kw_only=True):
    """Start both movers with their rules → MoversStarted, later MoversConnected."""

    step: ClassVar[Step] = Step.MOVERS


class BeginTransfer(TaskInstruction, frozen=True, tag=True, kw_only=True):
    """Choose the change mode and give the order → TransferBegan, later TransferFinished."""

    step: ClassVar[Step] = Step.TRANSFER


class DoubtPoints(TaskInstruction, frozen=True, tag=True, kw_only=True):
    """Mark the restore points that cannot be trusted after a missed change. Nothing answers it."""

    step: ClassVar[Step] = Step.TRANSFER


class StopTask(TaskInstruction, frozen=True, tag=True, kw_only=True):
    """Stop its movers, give its slots back or leave the queue → TaskStopped, always."""

    step: ClassVar[Step] = Step.TRANSFER


class ReleaseTask(TaskInstruction, frozen=True, tag=True, kw_only=True):
    """The task is done: give its slots back. Nothing answers it."""

    step: ClassVar[Step] = Step.TRANSFER


class PauseTask(TaskInstruction, frozen=True, tag=True, kw_only=True):
    """→ RetryDue after ``seconds``."""

    seconds: float


# --- VM of a backup -----------------------------------------------------------------------------------------------


class VmInstruction(Instruction, frozen=True, tag=True, kw_only=True):
    """Base of instructions about one VM. A failure comes back as VmFailed."""

    vm: str


class BeginRepositorySession(VmInstruction, frozen=True, tag=True, kw_only=True):
    """Open the VM's write session and choose its base point → RepositorySessionBegun."""

    step: ClassVar[Step] = Step.MOVERS


class ReadInventory(VmInstruction, frozen=True, tag=True, kw_only=True):
    """→ InventoryRead."""

    step: ClassVar[Step] = Step.INVENTORY


class TakeSnapshot(VmInstruction, frozen=True, tag=True, kw_only=True):
    """Freeze the guest, take the snapshot, thaw at once → GuestQuiesced, then SnapshotTaken.

    One instruction, because the thaw must follow on every path and may not wait for anything.
    """

    step: ClassVar[Step] = Step.SNAPSHOT


class CommitPoint(VmInstruction, frozen=True, tag=True, kw_only=True):
    """Make the restore point exist → PointCommitted."""

    step: ClassVar[Step] = Step.COMMIT


class RemoveSnapshot(VmInstruction, frozen=True, tag=True, kw_only=True):
    """After a commit: remove the snapshot → SnapshotRemoved, always."""

    step: ClassVar[Step] = Step.COMMIT


class AbandonVm(VmInstruction, frozen=True, tag=True, kw_only=True):
    """Abort the write session and remove the snapshot → VmAbandoned; PointCommitted when it had been committed.

    Given again before the next attempt while nobody knows which.
    """

    step: ClassVar[Step] = Step.COMMIT


class PauseVm(VmInstruction, frozen=True, tag=True, kw_only=True):
    """→ VmRetryDue after ``seconds``."""

    seconds: float


# --- restore and verification -----------------------------------------------------------------------------------


class PrepareTarget(Instruction, frozen=True, tag=True, kw_only=True):
    """Make room for the restored disks → TargetPrepared, TargetFailed."""

    step: ClassVar[Step] = Step.INVENTORY


class FinishTarget(Instruction, frozen=True, tag=True, kw_only=True):
    """Put the restored VM in its place → TargetFinished, TargetFailed."""

    step: ClassVar[Step] = Step.COMMIT


class AbandonTarget(Instruction, frozen=True, tag=True, kw_only=True):
    """Remove what the restore made → TargetAbandoned, always."""

    step: ClassVar[Step] = Step.COMMIT
