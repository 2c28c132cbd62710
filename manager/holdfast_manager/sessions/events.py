"""What happened, as the state machines are told it. Every event but progress is stored in the catalogue.

Names are in the past tense. ``vm`` and ``disk`` are the hypervisor's stable ids; a task is one disk of one VM.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.change import ChangeMode
from holdfast_manager.steps import Step


class TaskKey(msgspec.Struct, frozen=True, order=True):
    """Names a task within its session."""

    vm: str
    disk: str

    def __str__(self) -> str:
        return f"{self.vm}/{self.disk}"


class Event(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of all events. ``step`` is the step that the event ends or belongs to."""

    step: ClassVar[Step] = Step.START


class TaskEvent(Event, frozen=True, tag=True, kw_only=True):
    """Base of events about one task."""

    task: TaskKey


class VmEvent(Event, frozen=True, tag=True, kw_only=True):
    """Base of events about one VM."""

    vm: str


class PlannedVm(msgspec.Struct, frozen=True):
    """A VM of the session with its disks. ``after``: which other must have ended before it begins (a copy: the point
    of the VM before)."""

    vm: str
    name: str
    disks: tuple[str, ...]
    after: str | None = None


# --- session ----------------------------------------------------------------------------------------------------


class SessionStarted(Event, frozen=True, tag=True, kw_only=True):
    """The session's process runs."""


class VmsPlanned(Event, frozen=True, tag=True, kw_only=True):
    """The job's VMs and their disks are known. ``unplanned``: names of those that cannot be backed up at all.

    ``left_out``: of those that could be and are not, which a warning has told. ``noun``: what they are to people.
    """

    vms: tuple[PlannedVm, ...]
    unplanned: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    noun: str = "VM"


class SessionFailed(Event, frozen=True, tag=True, kw_only=True):
    """Nothing can be done at all (the job's server is unreachable, its repository does not open)."""

    error: ErrorRecord


class CancelRequested(Event, frozen=True, tag=True, kw_only=True):
    """Somebody asked the session to stop."""

    reason: str


# --- task ---------------------------------------------------------------------------------------------------------


class SlotGranted(TaskEvent, frozen=True, tag=True, kw_only=True):
    """A proxy and a repository slot are ours. ``waited_s``: time in the queue."""

    step: ClassVar[Step] = Step.SCHEDULE
    proxy: str
    repository: str
    waited_s: float


class MoversStarted(TaskEvent, frozen=True, tag=True, kw_only=True):
    """Both mover processes run and have their rules."""

    step: ClassVar[Step] = Step.MOVERS
    rules: str


class MoversConnected(TaskEvent, frozen=True, tag=True, kw_only=True):
    """The data channel is open: from the address ``source`` to ``target``, as the data goes, over so many streams.

    ``local``: none is needed, proxy and repository are one host.
    """

    step: ClassVar[Step] = Step.CONNECT
    source: str = ""
    target: str = ""
    streams: int = 0
    local: bool = False


class TransferBegan(TaskEvent, frozen=True, tag=True, kw_only=True):
    """The proxy's mover has its order. ``mode`` is None for restores and verifications."""

    step: ClassVar[Step] = Step.TRANSFER
    mode: ChangeMode | None
    reason: str


class ChangesMissed(TaskEvent, frozen=True, tag=True, kw_only=True):
    """The audit found what change tracking had not told: ``missed`` of the ``audited`` blocks so far.

    Told once for each try, as soon as it is known; the proxy's mover goes on by itself and compares the whole disk.
    """

    step: ClassVar[Step] = Step.TRANSFER
    audited: int
    missed: int


class TransferFinished(TaskEvent, frozen=True, tag=True, kw_only=True):
    """Both movers finished and agree. ``mode`` and ``reason``: where the transfer took another way than it began.

    ``unused``: what was found of blocks that no file system needs; empty where nobody looked.
    """

    step: ClassVar[Step] = Step.TRANSFER
    mode: ChangeMode | None = None
    reason: str = ""
    unused: str = ""


class TaskFailed(TaskEvent, frozen=True, tag=True, kw_only=True):
    """Something about one task went wrong; ``at`` is the step it was in."""

    error: ErrorRecord
    at: Step


class TaskStopped(TaskEvent, frozen=True, tag=True, kw_only=True):
    """The task's movers are gone and its slots are free."""


class RetryDue(TaskEvent, frozen=True, tag=True, kw_only=True):
    """The pause before another try is over."""


# --- VM of a backup -----------------------------------------------------------------------------------------------


class RepositorySessionBegun(VmEvent, frozen=True, tag=True, kw_only=True):
    """The repository expects the VM's restore point ``sid``. ``base``: the point to compare with, or None."""

    step: ClassVar[Step] = Step.MOVERS
    sid: str
    base: str | None


class InventoryRead(VmEvent, frozen=True, tag=True, kw_only=True):
    """The VM's disks as they are just before the snapshot. ``warning`` tells what the point will not hold."""

    step: ClassVar[Step] = Step.INVENTORY
    disks: tuple[str, ...]
    warning: str = ""


class GuestQuiesced(VmEvent, frozen=True, tag=True, kw_only=True):
    """Guest processing is over, for better or worse. ``warning`` tells what was not achieved."""

    step: ClassVar[Step] = Step.GUEST
    consistency: str
    note: str
    warning: str = ""


class SnapshotTaken(VmEvent, frozen=True, tag=True, kw_only=True):
    """All disks are frozen at one instant and the guest runs again. ``frozen_s``: how long it was held."""

    step: ClassVar[Step] = Step.SNAPSHOT
    snapshot: str
    frozen_s: float
    note: str
    warning: str = ""


class PointCommitted(VmEvent, frozen=True, tag=True, kw_only=True):
    """The restore point exists."""

    step: ClassVar[Step] = Step.COMMIT
    sid: str


class SnapshotRemoved(VmEvent, frozen=True, tag=True, kw_only=True):
    """The hypervisor is as it was. ``warning``: the removal stays open as an obligation, and why. ``note``: what there
    was to do, if no snapshot was to be removed. ``stood_s``: how old the snapshot was when it was gone."""

    step: ClassVar[Step] = Step.COMMIT
    warning: str = ""
    note: str = ""
    stood_s: float = 0.0


class VmFailed(VmEvent, frozen=True, tag=True, kw_only=True):
    """A step that concerns the whole VM failed."""

    error: ErrorRecord
    at: Step


class VmAbandoned(VmEvent, frozen=True, tag=True, kw_only=True):
    """Nothing of the failed attempt is left, neither in the repository nor on the hypervisor.

    ``unsettled``: but perhaps its point, whose commit nobody knows the outcome of; it is asked for before the next.
    """

    step: ClassVar[Step] = Step.COMMIT
    unsettled: bool = False


class VmRetryDue(VmEvent, frozen=True, tag=True, kw_only=True):
    """The pause before the VM's next attempt is over."""


# --- restore and verification -----------------------------------------------------------------------------------


class TargetPrepared(Event, frozen=True, tag=True, kw_only=True):
    """The place to restore to is ready; ``note`` says where. ``tasks``: the disks to bring there."""

    step: ClassVar[Step] = Step.INVENTORY
    note: str
    tasks: tuple[TaskKey, ...]


class TargetFinished(Event, frozen=True, tag=True, kw_only=True):
    """The restored VM or disk is in its place."""

    step: ClassVar[Step] = Step.COMMIT
    note: str


class TargetFailed(Event, frozen=True, tag=True, kw_only=True):
    """Preparing or finishing failed."""

    error: ErrorRecord
    at: Step


class TargetAbandoned(Event, frozen=True, tag=True, kw_only=True):
    """What the failed restore had made is gone. ``note``: what it was where it is told in other words."""

    step: ClassVar[Step] = Step.COMMIT
    note: str = ""
