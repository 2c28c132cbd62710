"""One VM of a backup: from its first slot to its restore point and the removal of its snapshot. Pure.

The order of the steps, and what must never happen:

* the write session is begun before the base point is chosen;
* the snapshot is taken when the first pair of movers is connected, so that it lives no longer than the transfer;
* the point is committed when every disk has arrived, never with one missing;
* nothing is begun anew while nobody knows whether the point exists already;
* whatever goes wrong, the session waits for what is under way, then abandons the write session and removes the
  snapshot before it tries again or gives up.
"""

from __future__ import annotations

from enum import StrEnum

from holdfast_agent.errors import ErrorRecord

from .events import (
    ChangesMissed,
    Event,
    GuestQuiesced,
    InventoryRead,
    MoversConnected,
    PlannedVm,
    PointCommitted,
    RepositorySessionBegun,
    SlotGranted,
    SnapshotRemoved,
    SnapshotTaken,
    TaskEvent,
    TaskFailed,
    TaskKey,
    VmAbandoned,
    VmFailed,
    VmRetryDue,
)
from .instructions import (
    AbandonVm,
    BeginRepositorySession,
    CommitPoint,
    Instruction,
    PauseVm,
    ReadInventory,
    RemoveSnapshot,
    TakeSnapshot,
)
from .story import Story
from .task_machine import RetryPolicy, TaskMachine

# The repository no longer knows this write session, or will not when it is back: trying the task again in it cannot
# succeed. The VM starts anew, and its snapshot does not wait for that.
_SESSION_LOST = frozenset({"session_unknown", "session_fenced", "repository_away"})


class VmState(StrEnum):
    PENDING = "pending"
    OPENING = "opening"
    OPEN = "open"
    INVENTORY = "inventory"
    SNAPSHOTTING = "snapshotting"
    SNAPSHOTTED = "snapshotted"
    COMMITTING = "committing"
    CLEANING = "cleaning"
    ABANDONING = "abandoning"
    CLEARING = "clearing"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDED = frozenset({VmState.DONE, VmState.FAILED, VmState.CANCELLED})
_PAST_RETURN = frozenset({VmState.COMMITTING, VmState.CLEANING})


class VmMachine:
    """``handle(event) → instructions``. Not thread-safe; owned by :class:`~.backup_machine.BackupMachine`."""

    def __init__(self, planned: PlannedVm, policy: RetryPolicy) -> None:
        self.vm = planned.vm
        self.name = planned.name
        self.state = VmState.PENDING
        self.error: ErrorRecord | None = None
        self.warnings: list[str] = []
        self._policy = policy
        self._attempts = 1
        self._cancelled = False
        self._started = False
        self._awaiting = False
        self._unsettled = False
        self._tasks = {disk: self._new_task(disk) for disk in planned.disks}
        self._gone: dict[str, TaskMachine] = {}  # disks that left the VM, until their movers are stopped
        self._story = Story()

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    def start(self) -> list[Instruction]:
        self._started = True
        return [instruction for task in self._tasks.values() for instruction in task.request()]

    def cancel(self) -> list[Instruction]:
        """Stop as soon as it is safe. A commit under way is carried to its end."""
        if self.ended or self.state in _PAST_RETURN:
            return []
        self._cancelled = True
        if self.state is VmState.PAUSED or not self._started:
            self.state = VmState.CANCELLED
            return []
        return self._abandon()

    def handle(self, event: Event) -> list[Instruction]:
        self._story.note(self.state, event)
        if isinstance(event, TaskEvent):
            return self._handle_task(event)
        match event:
            case GuestQuiesced():
                return self._warn(event.warning)
            case VmFailed():
                self._awaiting = False
                return self._fail(event.error)
            case PointCommitted() if self.state in (VmState.COMMITTING, VmState.CLEARING):
                self.state = VmState.CLEANING
                return [RemoveSnapshot(vm=self.vm)]
            case SnapshotRemoved() if self.state is VmState.CLEANING:
                self.state = VmState.DONE
                return self._warn(event.warning)
            case VmAbandoned() if self.state is VmState.CLEARING:
                return self._abandoned(event.unsettled)
            case VmRetryDue():
                return self._next_attempt() if self.state is VmState.PAUSED else []
            case RepositorySessionBegun() | InventoryRead() | SnapshotTaken() if self._awaiting:
                self._awaiting = False
                return self._clear_when_quiet() if self.state is VmState.ABANDONING else self._advance(event)
        raise self._story.illegal(f"VM {self.name}", self.state, event)

    def _advance(self, event: Event) -> list[Instruction]:
        match event:
            case RepositorySessionBegun() if self.state is VmState.OPENING:
                self.state = VmState.OPEN
                return [instruction for task in self._tasks.values() for instruction in task.admit()]
            case InventoryRead() if self.state is VmState.INVENTORY:
                self.state = VmState.SNAPSHOTTING
                self._awaiting = True
                self._warn(event.warning)
                return [*self._adopt_disks(event.disks), TakeSnapshot(vm=self.vm)]
            case SnapshotTaken() if self.state is VmState.SNAPSHOTTING:
                self.state = VmState.SNAPSHOTTED
                self._warn(event.warning)
                return [instruction for task in self._tasks.values() for instruction in task.release()]
        raise self._story.illegal(f"VM {self.name}", self.state, event)

    def _handle_task(self, event: TaskEvent) -> list[Instruction]:
        disk = event.task.disk
        task = self._gone[disk] if disk in self._gone else self._tasks[disk]
        if isinstance(event, TaskFailed) and event.error.code in _SESSION_LOST and not self._leaving():
            return [*task.handle(event), *self._fail(event.error)]
        instructions = task.handle(event)
        if isinstance(event, ChangesMissed):
            self._warn(f"change tracking missed changes of {disk}")
        if self.state is VmState.ABANDONING:
            return [*instructions, *self._clear_when_quiet()]
        if isinstance(event, SlotGranted) and self.state is VmState.PENDING:
            self.state = VmState.OPENING
            self._awaiting = True
            instructions.append(BeginRepositorySession(vm=self.vm))
        elif isinstance(event, MoversConnected) and self.state is VmState.OPEN:
            self.state = VmState.INVENTORY
            self._awaiting = True
            instructions.append(ReadInventory(vm=self.vm))
        elif disk in self._tasks and task.given_up and task.error is not None and not self._leaving():
            instructions += self._fail(task.error)
        elif self.state is VmState.SNAPSHOTTED and self._all_arrived():
            self.state = VmState.COMMITTING
            instructions.append(CommitPoint(vm=self.vm))
        return instructions

    def _adopt_disks(self, disks: tuple[str, ...]) -> list[Instruction]:
        """Disks may have come or gone since the session was planned: the point holds those of the snapshot."""
        instructions: list[Instruction] = []
        for disk in [disk for disk in self._tasks if disk not in disks]:
            self._gone[disk] = self._tasks.pop(disk)
            instructions += self._gone[disk].stop()
        for disk in disks:
            if disk not in self._tasks:
                task = self._tasks[disk] = self._new_task(disk)
                instructions += [*task.request(), *task.admit()]
        return instructions

    def _fail(self, error: ErrorRecord) -> list[Instruction]:
        if self.state in (VmState.CLEARING, VmState.CLEANING):
            raise AssertionError(f"clean-up of VM {self.name} reports by its own events, not by {error.code}")
        if self.error is None or self.state is not VmState.ABANDONING:
            self.error = error
        return self._abandon()

    def _abandon(self) -> list[Instruction]:
        if self._leaving():
            return self._clear_when_quiet() if self.state is VmState.ABANDONING else []
        self.state = VmState.ABANDONING
        stops = [instruction for task in self._tasks.values() for instruction in task.stop()]
        return [*stops, *self._clear_when_quiet()]

    def _clear_when_quiet(self) -> list[Instruction]:
        if self._awaiting or not all(task.at_rest for task in (*self._tasks.values(), *self._gone.values())):
            return []
        self.state = VmState.CLEARING
        return [AbandonVm(vm=self.vm)]

    def _abandoned(self, unsettled: bool) -> list[Instruction]:
        asked_again, self._unsettled = self._unsettled, unsettled
        if self._cancelled:
            self.state = VmState.CANCELLED
        elif asked_again and not unsettled:
            return self._begin_anew()
        elif self.error is not None and self.error.retryable and self._attempts <= self._policy.retries:
            self.state = VmState.PAUSED
            return [PauseVm(vm=self.vm, seconds=self._policy.pause_s)]
        else:
            self.state = VmState.FAILED
        return []

    def _next_attempt(self) -> list[Instruction]:
        self._attempts += 1
        if self._unsettled:
            self.state = VmState.CLEARING
            return [AbandonVm(vm=self.vm)]
        return self._begin_anew()

    def _begin_anew(self) -> list[Instruction]:
        self.error = None
        self._gone.clear()
        self.state = VmState.PENDING
        return self.start()

    def _all_arrived(self) -> bool:
        arrived = all(task.finished for task in self._tasks.values())
        return arrived and all(task.at_rest for task in self._gone.values())

    def _leaving(self) -> bool:
        return self.state in (VmState.ABANDONING, VmState.CLEARING, VmState.CLEANING) or self.ended

    def _warn(self, warning: str) -> list[Instruction]:
        if warning and warning not in self.warnings:
            self.warnings.append(warning)
        return []

    def _new_task(self, disk: str) -> TaskMachine:
        return TaskMachine(TaskKey(self.vm, disk), self._policy)
