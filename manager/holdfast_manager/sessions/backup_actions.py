"""What each step of a backup does. The order is the machine's business (:mod:`vm_machine`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from holdfast_agent.errors import (
    AlreadyExists,
    ChangeTrackingLost,
    ConnectionLost,
    HoldfastError,
    ObjectMissing,
    PointNotAuthentic,
    PointNotFound,
    SnapshotFailed,
    TreesDiffer,
    Unreachable,
)
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.records import RecordKind, seal_record
from holdfast_agent.sealing.roots import open_point, pack_set_digest, root_id, seal_point
from holdfast_agent.wire.messages import (
    AbortSession,
    BeginSession,
    BlobStored,
    CommitSession,
    Done,
    OpenRepository,
    PointList,
    ReadPoint,
    RepositoryFacts,
    StoreBlob,
)
from holdfast_agent.wire.specs import BackupOrder, PackRef, SourceSpec, TargetSpec
from holdfast_manager.broker.broker import Broker
from holdfast_manager.catalog.values import JobSpec, PointEntryRow, PointState
from holdfast_plugins.api import (
    ChangeTracker,
    ConsistencyLevel,
    HypervisorDriver,
    Journal,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
)

from .change_choice import Ground, choose_mode, comparable, geometry_of, trackable
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
from .movers import Outcome
from .quiescing import Guest, snapshot_quiesced
from .steps import Step
from .tasks import Context, TaskWork

_COMMIT_TRIES = 5
_COMMIT_PAUSE_S = 3.0


class Platform(msgspec.Struct, frozen=True):
    """The hypervisor's side of a backup session."""

    server: str
    driver: HypervisorDriver
    broker: Broker
    trackers: Sequence[tuple[str, ChangeTracker]]
    journal: Journal
    guest: Guest | None
    snapshot_options: object


@dataclass
class _Vm:
    """What is known of one VM in its present attempt."""

    info: VmInfo
    sid: Sid = field(default_factory=new_sid)
    begun: bool = False
    base: Point | None = None
    snapshot: Snapshot | None = None
    consistency: ConsistencyLevel = ConsistencyLevel.CRASH
    movers: int = 0
    modes: dict[str, tuple[ChangeMode, str]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)


class BackupActions:
    """Carries out the instructions of :class:`~.backup_machine.BackupMachine`. One VM is never in two hands at once."""

    def __init__(self, context: Context, job: JobSpec, keys: RepositoryKeys, platform: Platform) -> None:
        self._context = context
        self._job = job
        self._keys = keys
        self._platform = platform
        self._vms: dict[str, _Vm] = {}
        self._lock = threading.Lock()
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
                self._vms[key.vm].outcomes[key.disk] = self._context.desk.outcome(key)
                self.tasks.stop(key)
            case StopTask():
                self.tasks.stop(key)
                return TaskStopped(task=key)
        return None

    def _perform_vm(self, instruction: VmInstruction, vm: _Vm) -> Event:
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
        planned, unplanned = [], []
        for ref in self._platform.broker.resolve(self._job.include, self._job.exclude):
            try:
                info = self._platform.broker.info(ref)
                if not info.disks:
                    raise SnapshotFailed(vm=ref.name, reason="it has no disks to back up")
            except HoldfastError as error:
                self._context.recorder.note(f"{ref.name}: {error}", "error", Step.START)
                unplanned.append(ref.name)
                continue
            self._vms[ref.vm_id] = _Vm(info)
            self._add_tasks(info)
            planned.append(PlannedVm(ref.vm_id, ref.name, tuple(disk.disk_id for disk in info.disks)))
        return VmsPlanned(vms=tuple(planned), unplanned=tuple(unplanned))

    def _add_tasks(self, info: VmInfo) -> None:
        for disk in info.disks:
            key = TaskKey(info.ref.vm_id, disk.disk_id)
            self._context.recorder.add_task(key, info.ref.name, disk.name, disk.size_bytes)

    # --- movers, rules, connect -------------------------------------------------------------------------------

    def _begin_session(self, vm: _Vm) -> Event:
        """The write session first, only then the base point: what it builds on can then no longer be collected."""
        vm.sid, vm.begun, vm.snapshot, vm.base = new_sid(), True, None, None
        vm.modes.clear()
        vm.outcomes.clear()
        pool, repository = self._context.pool, self._context.repository
        pool.ask(repository.agent, BeginSession(lease=pool.lease, repository=repository.path, sid=vm.sid), Done)
        vm.base = self._base_point(vm)
        return RepositorySessionBegun(vm=vm.info.ref.vm_id, sid=vm.sid, base=vm.base.sid if vm.base else None)

    def _base_point(self, vm: _Vm) -> Point | None:
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

    def _start_movers(self, key: TaskKey) -> Event:
        vm, context, job = self._vms[key.vm], self._context, self._job
        with self._lock:
            number, vm.movers = vm.movers, vm.movers + 1
        rules = TransferRules(job.compression, job.streams, job.bandwidth_bytes_per_s)
        sid = vm.sid
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
        limit = f", {job.bandwidth_bytes_per_s} B/s" if job.bandwidth_bytes_per_s else ""
        return MoversStarted(task=key, rules=f"{job.compression}, {sealed}, {job.streams} stream(s){limit}")

    # --- inventory, guest, snapshot ---------------------------------------------------------------------------

    def _read_inventory(self, vm: _Vm) -> Event:
        vm.info = self._platform.driver.vm_info(vm.info.ref)
        self._add_tasks(vm.info)
        return InventoryRead(vm=vm.info.ref.vm_id, disks=tuple(disk.disk_id for disk in vm.info.disks))

    def _take_snapshot(self, vm: _Vm) -> Event:
        platform, ref = self._platform, vm.info.ref
        request = SnapshotRequest(
            vm=ref,
            tag=f"holdfast {self._job.name} {self._context.session}",
            disk_ids=tuple(disk.disk_id for disk in vm.info.disks),
            options=platform.snapshot_options,
        )
        snapshot, quiesced = snapshot_quiesced(
            platform.guest,
            vm.info,
            lambda: platform.driver.create_snapshot(request, platform.journal),
            lambda unwanted: platform.driver.remove_snapshot(unwanted, False, platform.journal),
        )
        vm.snapshot, vm.consistency = snapshot, quiesced.consistency
        self._context.driver.post(
            GuestQuiesced(vm=ref.vm_id, consistency=quiesced.consistency, note=quiesced.note, warning=quiesced.warning)
        )
        return SnapshotTaken(
            vm=ref.vm_id, snapshot=snapshot.snapshot_id, frozen_s=round(quiesced.frozen_s, 3), note=snapshot.note
        )

    # --- transfer ---------------------------------------------------------------------------------------------

    def _begin_transfer(self, key: TaskKey) -> Event:
        vm, log2 = self._vms[key.vm], self._job.block_log2
        disk = self._snapshot_disk(vm, key.disk)
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
        vm.modes[key.disk] = (decision.mode, decision.reason)
        self._context.desk.begin(key, order)
        return TransferBegan(task=key, mode=decision.mode, reason=decision.reason)

    def _changed_extents(self, vm: _Vm, disk: SnapshotDisk) -> tuple[Sequence[Extent] | None, str]:
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

    @staticmethod
    def _snapshot_disk(vm: _Vm, disk_id: str) -> SnapshotDisk:
        for disk in BackupActions._snapshot_disks(vm):
            if disk.disk_id == disk_id:
                return disk
        raise SnapshotFailed(vm=vm.info.ref.name, reason=f"it holds no disk {disk_id}")

    @staticmethod
    def _snapshot_disks(vm: _Vm) -> tuple[SnapshotDisk, ...]:
        if vm.snapshot is None:
            raise SnapshotFailed(vm=vm.info.ref.name, reason="it is gone")
        return vm.snapshot.disks

    # --- commit -----------------------------------------------------------------------------------------------

    def _commit(self, vm: _Vm) -> Event:
        pool, repository, sid = self._context.pool, self._context.repository, vm.sid
        packs = [pack for outcome in vm.outcomes.values() for pack in outcome.listener.packs]
        config, blob_packs = self._store_config(vm, sid)
        packs += blob_packs
        point = self._point(vm, sid, config, packs)
        entry = seal_point(point, self._keys)
        request = CommitSession(lease=pool.lease, repository=repository.path, entry=entry, packs=tuple(packs))
        self._insist(request)
        self._remember(vm, point)
        return PointCommitted(vm=vm.info.ref.vm_id, sid=sid)

    def _store_config(self, vm: _Vm, sid: Sid) -> tuple[str, tuple[PackRef, ...]]:
        plain = msgspec.json.encode(vm.info)
        keys = self._keys.blob_keys()
        blob = keys.block_id(plain)
        record = b"".join(seal_record(RecordKind.BLOB, plain, blob, keys))
        with self._lock:
            number, vm.movers = vm.movers, vm.movers + 1
        pool, repository = self._context.pool, self._context.repository
        request = StoreBlob(lease=pool.lease, repository=repository.path, sid=sid, mover=number, record=record)
        return blob.hex(), pool.ask(repository.agent, request, BlobStored).packs

    def _point(self, vm: _Vm, sid: Sid, config: str, packs: Sequence[PackRef]) -> Point:
        return Point(
            sid=sid,
            repository_id=self._keys.repository_id,
            created=time.time(),
            job=self._job.name,
            server=self._platform.server,
            vm_id=vm.info.ref.vm_id,
            vm_name=vm.info.ref.name,
            disks=tuple(self._disk_point(vm, disk) for disk in self._snapshot_disks(vm)),
            packs=pack_set_digest(pack.name for pack in packs),
            base=vm.base.sid if vm.base else None,
            config=config,
            consistency=vm.consistency,
        )

    def _disk_point(self, vm: _Vm, disk: SnapshotDisk) -> DiskPoint:
        mode, reason = vm.modes[disk.disk_id]
        root = vm.outcomes[disk.disk_id].listener.root
        if root is None:
            raise TreesDiffer(disk=disk.name)
        return DiskPoint(
            disk_id=disk.disk_id,
            name=disk.name,
            size_bytes=disk.size_bytes,
            block_log2=self._job.block_log2,
            root=root.hex(),
            mode=mode,
            reason=reason,
            change_id=disk.change_id,
        )

    def _insist(self, request: CommitSession) -> None:
        """Repeat the commit while its answer is lost: it is idempotent, and its outcome must be known."""
        for attempt in range(_COMMIT_TRIES):
            try:
                self._context.pool.ask(self._context.repository.agent, request, Done)
            except (ConnectionLost, Unreachable):
                if attempt == _COMMIT_TRIES - 1:
                    raise
                threading.Event().wait(_COMMIT_PAUSE_S)
            else:
                return

    def _remember(self, vm: _Vm, point: Point) -> None:
        self._context.catalog.points.add(
            PointEntryRow(
                sid=point.sid,
                repository=self._context.repository.name,
                server=point.server,
                job=point.job,
                vm_id=point.vm_id,
                vm_name=point.vm_name,
                created=point.created,
                size_bytes=sum(disk.size_bytes for disk in point.disks),
                session=self._context.session,
                stored_bytes=sum(outcome.counters.stored_bytes for outcome in vm.outcomes.values()),
                consistency=point.consistency,
            )
        )

    def _remove_snapshot(self, vm: _Vm) -> Event:
        return SnapshotRemoved(vm=vm.info.ref.vm_id, warning=self._drop_snapshot(vm, committed=True))

    def _abandon(self, vm: _Vm) -> Event:
        """Fence the write session, so that nothing can commit it later, and leave nothing on the hypervisor."""
        pool, repository = self._context.pool, self._context.repository
        if vm.begun:
            try:
                request = AbortSession(lease=pool.lease, repository=repository.path, sid=vm.sid)
                pool.ask(repository.agent, request, Done)
            except AlreadyExists:
                return PointCommitted(vm=vm.info.ref.vm_id, sid=vm.sid)
            except HoldfastError as error:
                # The agent fences it when the lease runs out, or at its next start.
                self._context.recorder.note(f"the write session stays open for now: {error}", "warning", Step.COMMIT)
        warning = self._drop_snapshot(vm, committed=False)
        if warning:
            self._context.recorder.note(warning, "warning", Step.COMMIT)
        return VmAbandoned(vm=vm.info.ref.vm_id)

    def _drop_snapshot(self, vm: _Vm, committed: bool) -> str:
        """Remove the snapshot; a sentence if that failed, in which case its obligation stays open."""
        if vm.snapshot is None:
            return ""
        try:
            self._platform.driver.remove_snapshot(vm.snapshot, committed, self._platform.journal)
        except HoldfastError as error:
            return str(error)
        vm.snapshot = None
        return ""
