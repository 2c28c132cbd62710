"""What each step of a backup does. The order is the machine's business (:mod:`vm_machine`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast_agent.errors import (
    ChangeTrackingLost,
    HoldfastError,
    ObjectDamaged,
    ObjectMissing,
    PointNotAuthentic,
    PointNotFound,
    SnapshotFailed,
)
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.points import Point
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.model.units import format_rate
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import open_point, root_id
from holdfast_agent.wire.messages import OpenRepository, PointList, ReadPoint, RepositoryFacts
from holdfast_agent.wire.specs import BackupOrder, SourceSpec, TargetSpec
from holdfast_manager.broker.broker import Broker
from holdfast_manager.catalog.values import JobSpec, PointState
from holdfast_plugins.api import (
    ChangeTracker,
    HypervisorDriver,
    Journal,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
)

from .change_choice import Ground, choose_mode, comparable, geometry_of, trackable
from .committing import Committer
from .events import (
    Event,
    GuestQuiesced,
    InventoryRead,
    MoversStarted,
    PlannedVm,
    PointCommitted,
    RepositorySessionBegun,
    SessionFailed,
    SnapshotRemoved,
    SnapshotTaken,
    TaskFailed,
    TaskKey,
    TaskStopped,
    TransferBegan,
    VmAbandoned,
    VmFailed,
    VmsPlanned,
)
from .instructions import (
    AbandonVm,
    BeginRepositorySession,
    BeginTransfer,
    CommitPoint,
    Instruction,
    PlanVms,
    ReadInventory,
    ReleaseTask,
    RemoveSnapshot,
    RequestSlot,
    StartMovers,
    StopTask,
    TakeSnapshot,
    TaskInstruction,
    VmInstruction,
)
from .orphans import adopt_orphaned_points
from .quiescing import Guest, Quiesced, snapshot_quiesced
from .steps import Step
from .tasks import Context, TaskWork
from .vm_work import VmWork
from .write_sessions import begin_write_session, give_up_write_session


class Platform(msgspec.Struct, frozen=True):
    """The hypervisor's side of a backup session."""

    server: str
    driver: HypervisorDriver
    broker: Broker
    trackers: Sequence[tuple[str, ChangeTracker]]
    journal: Journal
    guest: Guest | None
    snapshot_options: object


class BackupActions:
    """Carries out the instructions of :class:`~.backup_machine.BackupMachine`. One VM is never in two hands at once."""

    def __init__(self, context: Context, job: JobSpec, keys: RepositoryKeys, platform: Platform) -> None:
        self._context = context
        self._job = job
        self._keys = keys
        self._platform = platform
        self._vms: dict[str, VmWork] = {}
        self._committer = Committer(context, job, keys, platform.server)
        self.tasks = TaskWork(context)

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case PlanVms():
                return self._plan()
            case TaskInstruction():
                return self._perform_task(instruction)
            case VmInstruction():
                return self._perform_vm(instruction, self._vms[instruction.vm])
        raise AssertionError(f"a backup has no {type(instruction).__name__}")

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        match instruction:
            case TaskInstruction():
                return TaskFailed(task=instruction.task, error=error.to_record(), at=instruction.step)
            case VmInstruction():
                return VmFailed(vm=instruction.vm, error=error.to_record(), at=instruction.step)
        return SessionFailed(error=error.to_record())

    def tick(self) -> None:
        self.tasks.tick()

    def _perform_task(self, instruction: TaskInstruction) -> Event | None:
        key = instruction.task
        match instruction:
            case RequestSlot():
                self.tasks.request(key, self._context.catalog.agents.proxies(self._job.proxies))
            case StartMovers():
                return self._start_movers(key)
            case BeginTransfer():
                return self._begin_transfer(key)
            case ReleaseTask():
                self.tasks.stop(key)
            case StopTask():
                self._doubt_base(key)
                self.tasks.stop(key)
                return TaskStopped(task=key)
        return None

    def _perform_vm(self, instruction: VmInstruction, vm: VmWork) -> Event:
        match instruction:
            case BeginRepositorySession():
                return self._begin_session(vm)
            case ReadInventory():
                return self._read_inventory(vm)
            case TakeSnapshot():
                return self._take_snapshot(vm)
            case CommitPoint():
                return self._commit(vm)
            case RemoveSnapshot():
                return self._remove_snapshot(vm)
            case AbandonVm():
                return self._abandon(vm)
        raise AssertionError(f"a VM has no {type(instruction).__name__}")

    # --- start ------------------------------------------------------------------------------------------------

    def _plan(self) -> Event:
        """Step `start`: the job's VMs, and that the repository is there, before anything is done to any VM."""
        request = OpenRepository(repository=self._context.repository.path)
        self._context.pool.ask(self._context.repository.agent, request, RepositoryFacts)
        adopt_orphaned_points(self._context, self._job.name, self._keys)
        planned, unplanned = [], []
        for ref in self._platform.broker.resolve(self._job.include, self._job.exclude):
            try:
                info = _with_disks(self._platform.broker.info(ref))
            except HoldfastError as error:
                self._context.recorder.note(f"{ref.name}: {error}", "error", Step.START)
                unplanned.append(ref.name)
                continue
            self._vms[ref.vm_id] = VmWork(info)
            self._add_tasks(info)
            planned.append(PlannedVm(ref.vm_id, ref.name, tuple(disk.disk_id for disk in info.disks)))
        return VmsPlanned(vms=tuple(planned), unplanned=tuple(unplanned))

    def _add_tasks(self, info: VmInfo) -> None:
        for disk in info.disks:
            key = TaskKey(info.ref.vm_id, disk.disk_id)
            self._context.recorder.add_task(key, info.ref.name, disk.name, disk.size_bytes)

    # --- movers, rules, connect -------------------------------------------------------------------------------

    def _begin_session(self, vm: VmWork) -> Event:
        """The write session first, only then the base point: what it builds on can then no longer be collected."""
        vm.begin_attempt()
        begin_write_session(self._context, vm.sid)
        vm.base = self._base_point(vm)
        return RepositorySessionBegun(vm=vm.info.ref.vm_id, sid=vm.sid, base=vm.base.sid if vm.base else None)

    def _base_point(self, vm: VmWork) -> Point | None:
        """The VM's newest good point. One that cannot be used costs time, never the backup."""
        context = self._context
        row = context.catalog.points.latest(context.repository.name, self._platform.server, vm.info.ref.vm_id)
        if row is None:
            return None
        request = ReadPoint(repository=context.repository.path, sid=row.sid)
        try:
            listed = context.pool.ask(context.repository.agent, request, PointList)
            return open_point(listed.points[0], self._keys)
        except PointNotAuthentic as error:
            context.catalog.points.set_state(row.sid, PointState.SUSPECT)
            context.recorder.note(f"{vm.info.ref.name}: {error}", "warning", Step.MOVERS)
        except (PointNotFound, ObjectMissing) as error:
            context.recorder.note(f"{vm.info.ref.name}: no base to compare with: {error}", "warning", Step.MOVERS)
        return None

    def _doubt_base(self, key: TaskKey) -> None:
        """A task that failed because of damage in the repository: nothing builds on its base again.

        The next run reads the whole disk, and stores again what the reading of the base has put in quarantine.
        """
        vm, error = self._vms[key.vm], self._context.recorder.task(key).error
        if vm.base is None or error is None or error.code not in (ObjectDamaged.code, ObjectMissing.code):
            return
        self._context.catalog.points.set_state(vm.base.sid, PointState.SUSPECT)
        text = f"{vm.info.ref.name}: the point {vm.base.sid[:12]} is damaged; the next run does without it"
        self._context.recorder.note(text, "warning", Step.TRANSFER)

    def _start_movers(self, key: TaskKey) -> Event:
        vm, context, job = self._vms[key.vm], self._context, self._job
        number = vm.next_mover()
        rules, sid = TransferRules(job.compression, job.streams), vm.sid
        context.desk.start(
            key,
            context.repository.agent,
            lambda name, secret: TargetSpec(
                task_id=name, secret=secret, rules=rules, repository=context.repository.path, sid=sid, mover=number
            ),
            self.tasks.proxy_of(key),
            lambda name, secret, endpoints: SourceSpec(
                task_id=name, secret=secret, rules=rules, endpoints=endpoints, keys=self._keys.data_keys()
            ),
        )
        sealed = "encrypted" if context.repository.encrypted else "not encrypted"
        bandwidth = job.bandwidth_bytes_per_s
        limit = f", at most {format_rate(bandwidth)} for all tasks together" if bandwidth else ""
        return MoversStarted(task=key, rules=f"{job.compression}, {sealed}{limit}")

    # --- inventory, guest, snapshot ---------------------------------------------------------------------------

    def _read_inventory(self, vm: VmWork) -> Event:
        vm.info = _with_disks(self._platform.driver.vm_info(vm.info.ref))
        self._add_tasks(vm.info)
        return InventoryRead(vm=vm.info.ref.vm_id, disks=tuple(disk.disk_id for disk in vm.info.disks))

    def _take_snapshot(self, vm: VmWork) -> Event:
        platform, ref = self._platform, vm.info.ref
        request = SnapshotRequest(
            vm=ref,
            tag=f"holdfast {self._job.name} {self._context.session}",
            disk_ids=tuple(disk.disk_id for disk in vm.info.disks),
            options=platform.snapshot_options,
        )

        def announce(quiesced: Quiesced) -> None:
            consistency, note, warning = quiesced.consistency, quiesced.note, quiesced.warning
            event = GuestQuiesced(vm=ref.vm_id, consistency=consistency, note=note, warning=warning)
            self._context.driver.post(event, quiesced.took_s)

        taken = snapshot_quiesced(
            platform.guest,
            vm.info,
            lambda: platform.driver.create_snapshot(request, platform.journal),
            lambda unwanted: platform.driver.remove_snapshot(unwanted, False, platform.journal),
            announce,
        )
        vm.snapshot, vm.consistency = taken.snapshot, taken.consistency
        return SnapshotTaken(
            vm=ref.vm_id,
            snapshot=taken.snapshot.snapshot_id,
            frozen_s=round(taken.frozen_s, 3),
            note=taken.snapshot.note,
            warning=taken.warning,
        )

    # --- transfer ---------------------------------------------------------------------------------------------

    def _begin_transfer(self, key: TaskKey) -> Event:
        vm, log2 = self._vms[key.vm], self._job.block_log2
        disk = vm.snapshot_disk(key.disk)
        extents, lost = self._changed_extents(vm, disk)
        ground = Ground(disk, log2, vm.base, extents is not None, lost, self._job.on_cbt_loss)
        decision = choose_mode(ground)
        before = comparable(vm.base, disk, log2) if decision.mode in (ChangeMode.CBT, ChangeMode.DIGEST) else None
        order = BackupOrder(
            geometry=geometry_of(disk, log2),
            disks=disk.urls,
            mode=decision.mode,
            base_root=root_id(before.root) if before else None,
            base_geometry=before.geometry if before else None,
            extents=tuple(extents) if extents is not None else None,
        )
        vm.decisions[key.disk] = decision
        self.tasks.begin(key, order, writes=self._context.repository.name)
        return TransferBegan(task=key, mode=decision.mode, reason=decision.reason)

    def _changed_extents(self, vm: VmWork, disk: SnapshotDisk) -> tuple[Sequence[Extent] | None, str]:
        """Extents from the first tracker that can tell, or None and why none could (empty: none was to be asked)."""
        since = trackable(vm.base, disk, self._job.block_log2)
        lost = ""
        if since is None or vm.snapshot is None:
            return None, lost
        for name, tracker in self._platform.trackers:
            try:
                return tracker.changed(vm.snapshot, disk.disk_id, since), ""
            except ChangeTrackingLost as error:
                lost = f"{name}: {error.text}"
            except HoldfastError as error:
                lost = f"{name} failed: {error}"
        return None, lost

    # --- commit -----------------------------------------------------------------------------------------------

    def _commit(self, vm: VmWork) -> Event:
        return PointCommitted(vm=vm.info.ref.vm_id, sid=self._committer.commit(vm).sid)

    def _remove_snapshot(self, vm: VmWork) -> Event:
        return SnapshotRemoved(vm=vm.info.ref.vm_id, warning=self._drop_snapshot(vm, committed=True))

    def _abandon(self, vm: VmWork) -> Event:
        """Fence the write session, so that nothing can commit it later, and leave nothing on the hypervisor."""
        if give_up_write_session(self._context, vm):
            return PointCommitted(vm=vm.info.ref.vm_id, sid=vm.sid)
        warning = self._drop_snapshot(vm, committed=False)
        if warning:
            self._context.recorder.note(warning, "warning", Step.COMMIT)
        return VmAbandoned(vm=vm.info.ref.vm_id)

    def _drop_snapshot(self, vm: VmWork, committed: bool) -> str:
        """Remove the snapshot; a sentence if that failed, in which case its obligation stays open."""
        if vm.snapshot is None:
            return ""
        try:
            self._platform.driver.remove_snapshot(vm.snapshot, committed, self._platform.journal)
        except HoldfastError as error:
            return str(error)
        vm.snapshot = None
        return ""


def _with_disks(info: VmInfo) -> VmInfo:
    """``info`` itself. A VM without disks is an error: a point of nothing would look like a backup."""
    if not info.disks:
        raise SnapshotFailed(vm=info.ref.name, reason="it has no disks to back up")
    return info
