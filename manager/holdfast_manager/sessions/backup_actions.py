"""What each step of a backup does. The order is the machine's business (:mod:`vm_machine`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence

import msgspec

from holdfast_agent.errors import (
    HoldfastError,
    SnapshotFailed,
)
from holdfast_agent.model.rules import TransferRules
from holdfast_manager.broker.broker import Broker
from holdfast_manager.catalog.values import JobSpec, ServerLimits
from holdfast_manager.scheduler.capacities import job_limit, server_limits
from holdfast_plugins.api import (
    ChangeTracker,
    HypervisorDriver,
    Journal,
    OffersTransports,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
)

from .base_points import BasePoints
from .change_choice import Ground, backup_order, change_ids, choose_mode, comparable, geometry_of, left_out, trackable
from .committing import Committer
from .events import (
    Event,
    GuestQuiesced,
    InventoryRead,
    MoversStarted,
    PlannedVm,
    PointCommitted,
    RepositorySessionBegun,
    SnapshotRemoved,
    SnapshotTaken,
    TaskKey,
    TaskStopped,
    TransferBegan,
    VmAbandoned,
    VmsPlanned,
)
from .failures import failure
from .homes import Home, Homes, VmKey
from .instructions import (
    AbandonVm,
    BeginRepositorySession,
    BeginTransfer,
    CommitPoint,
    DoubtPoints,
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
from .quiescing import DriverAccess, Guest, Quiesced, better, snapshot_quiesced
from .spacing import SnapshotSpacing
from .steps import Step
from .storage_care import StorageCare
from .tasks import Context, TaskWork
from .tracking import Told, ask_allocated, ask_changes
from .vm_work import VmWork
from .write_sessions import begin_write_session, give_up_write_session
from .writing_movers import start_writing_movers, told_rules


class Platform(msgspec.Struct, frozen=True):
    """The hypervisor's side of a backup session."""

    server: str
    limits: ServerLimits
    driver: HypervisorDriver
    broker: Broker
    trackers: Sequence[tuple[str, ChangeTracker]]
    journal: Journal
    guest: Guest | None
    snapshot_options: object


class _Place:
    """What a session does at one of the repositories that its points go to."""

    def __init__(self, home: Home, job: JobSpec, server: str) -> None:
        self.context, self.keys = home.context, home.keys
        self.committer = Committer(home.context, job, home.keys, server)
        self.bases = BasePoints(home.context, home.keys, server)


class BackupActions:
    """Carries out the instructions of :class:`~.backup_machine.BackupMachine`. One VM is never in two hands at once."""

    def __init__(
        self,
        context: Context,
        job: JobSpec,
        homes: Homes,
        platform: Platform,
        only: frozenset[str] | None = None,
    ) -> None:
        """``only``: ids or names of the job's VMs to back up; None for all."""
        self._context = context
        self._only = only
        self._job = job
        self._homes = homes
        self._lock = threading.Lock()  # of the places: tasks of one VM may ask for them at once
        self._places: dict[str, _Place] = {}
        self._platform = platform
        self._vms: dict[str, VmWork] = {}
        self.tasks = TaskWork(context)
        self._spacing = SnapshotSpacing(platform.limits.snapshot_spacing_s or 0.0)
        self._care = StorageCare(
            platform.driver,
            platform.limits,
            context.traffic.hold,
            lambda key, why: context.recorder.change_task(key, reason=why),
        )

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
        return failure(instruction, error)

    def tick(self) -> None:
        self.tasks.tick()
        self._care.tick()

    def _perform_task(self, instruction: TaskInstruction) -> Event | None:
        key = instruction.task
        match instruction:
            case RequestSlot():
                self._request_slot(key)
            case StartMovers():
                return self._start_movers(key)
            case BeginTransfer():
                self._begin_transfer(key)
            case DoubtPoints():
                self._doubt_points(key)
            case ReleaseTask():
                self._stop(key)
            case StopTask():
                self._look_for_doubt(key)
                self._stop(key)
                return TaskStopped(task=key)
        return None

    def _stop(self, key: TaskKey) -> None:
        self._care.forget(key)
        self.tasks.stop(key)

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

    def _request_slot(self, key: TaskKey) -> None:
        job, info = self._job, self._vms[key.vm].info
        datastore = datastore_of(info, key.disk)
        limits = server_limits(self._platform.server, self._platform.limits, info.host, datastore)
        if job.max_tasks is not None:
            limits += (job_limit(job.name, job.max_tasks),)
        proxies = self._context.catalog.agents.proxies(job.proxies)
        near = self._near_proxies(info, key.disk)
        repository = self._place(self._vms[key.vm]).context.repository

        def request() -> None:
            self.tasks.request(
                key, proxies, preferred=job.proxies, near=near, limits=limits, job=job, repository=repository
            )

        self._care.start(key, datastore, request)

    def _place(self, vm: VmWork) -> _Place:
        """Where the VM's point goes in this attempt."""
        with self._lock:
            if vm.home is None:
                size = sum(disk.size_bytes for disk in vm.info.disks)
                vm.home = self._homes.choose(self._key(vm), vm.info.ref.name, size)
            name = vm.home.repository.name
            if name not in self._places:
                self._places[name] = _Place(vm.home, self._job, self._platform.server)
            return self._places[name]

    def _key(self, vm: VmWork) -> VmKey:
        return self._platform.server, vm.info.ref.vm_id

    def _near_proxies(self, info: VmInfo, disk_id: str) -> Sequence[Collection[str]]:
        """Where nothing can be told, any proxy will do."""
        driver = self._platform.driver
        try:
            return driver.near_proxies(info, disk_id) if isinstance(driver, OffersTransports) else ()
        except HoldfastError as error:
            self._context.recorder.note(f"{info.ref.name}: {error}", "warning", Step.SCHEDULE)
            return ()

    # --- start ------------------------------------------------------------------------------------------------

    def _plan(self) -> Event:
        """Step `start`: the job's VMs, and that the repository is there, before anything is done to any VM."""
        for home in self._homes.open():
            adopt_orphaned_points(home.context, self._job.name, home.keys)
        planned, unplanned = [], []
        for ref in self._platform.broker.resolve(self._job.include, self._job.exclude):
            if self._only is not None and self._only.isdisjoint((ref.vm_id, ref.name)):
                continue
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
        place = self._place(vm)
        vm.begin_attempt()
        begin_write_session(place.context, vm.sid)
        place.bases.choose(vm)
        return RepositorySessionBegun(vm=vm.info.ref.vm_id, sid=vm.sid, base=vm.base.sid if vm.base else None)

    def _start_movers(self, key: TaskKey) -> Event:
        vm, job = self._vms[key.vm], self._job
        place, rules = self._place(vm), TransferRules(job.compression, job.streams)
        start_writing_movers(place.context, key, self.tasks.proxy_of(key), vm, rules, place.keys)
        return MoversStarted(task=key, rules=told_rules(place.context, job.compression, job.bandwidth_bytes_per_s))

    # --- inventory, guest, snapshot ---------------------------------------------------------------------------

    def _read_inventory(self, vm: VmWork) -> Event:
        vm.info = _with_disks(self._platform.driver.vm_info(vm.info.ref))
        self._add_tasks(vm.info)
        return InventoryRead(vm=vm.info.ref.vm_id, disks=tuple(disk.disk_id for disk in vm.info.disks))

    def _take_snapshot(self, vm: VmWork) -> Event:
        platform, ref = self._platform, vm.info.ref
        self._spacing.wait({disk.datastore for disk in vm.info.disks if disk.datastore})
        request = SnapshotRequest(
            vm=ref,
            tag=f"holdfast {self._job.name} {self._context.session}",
            disk_ids=tuple(disk.disk_id for disk in vm.info.disks),
            options=platform.snapshot_options,
            series=self._place(vm).keys.repository_id,
            since=change_ids(vm.base),
        )

        def announce(quiesced: Quiesced) -> None:
            consistency, note, warning = quiesced.consistency, quiesced.note, quiesced.warning
            event = GuestQuiesced(vm=ref.vm_id, consistency=consistency, note=note, warning=warning)
            self._context.driver.post(event, quiesced.took_s)

        taken = snapshot_quiesced(
            platform.guest,
            vm.info,
            DriverAccess(platform.driver, ref),
            lambda: platform.driver.create_snapshot(request, platform.journal),
            lambda unwanted: platform.driver.remove_snapshot(unwanted, False, platform.journal),
            announce,
        )
        vm.snapshot, vm.consistency = taken.snapshot, better(taken.consistency, taken.snapshot.consistency)
        return SnapshotTaken(
            vm=ref.vm_id,
            snapshot=taken.snapshot.snapshot_id,
            frozen_s=round(taken.frozen_s, 3),
            note=taken.snapshot.note,
            warning=taken.warning,
        )

    # --- transfer ---------------------------------------------------------------------------------------------

    def _begin_transfer(self, key: TaskKey) -> None:
        """Tells TransferBegan by itself: a transfer of what was tracked may be over before the agent has answered."""
        began, vm = time.monotonic(), self._vms[key.vm]
        ground = self._ground(vm, self._disk_for(vm, key))
        decision = vm.decisions[key.disk] = choose_mode(ground)
        event = TransferBegan(task=key, mode=decision.mode, reason=decision.reason)
        self._context.driver.post(event, time.monotonic() - began)
        self._care.transfers(key, datastore_of(vm.info, key.disk))
        order = backup_order(ground, decision)
        vm.ways[key.disk] = order.disks
        self.tasks.begin(key, order, writes=self._place(vm).context.repository.name)

    def _disk_for(self, vm: VmWork, key: TaskKey) -> SnapshotDisk:
        """The disk with the ways to it that its proxy has."""
        disk, driver = vm.snapshot_disk(key.disk), self._platform.driver
        if vm.snapshot is None or not isinstance(driver, OffersTransports):
            return disk
        return driver.disk_for(vm.snapshot, disk, self.tasks.proxy_of(key), self._platform.journal)

    def _ground(self, vm: VmWork, disk: SnapshotDisk) -> Ground:
        """All that the choice of a mode rests on. Trackers are asked here, and only what their answer is needed for."""
        job, log2, geometry = self._job, self._job.block_log2, geometry_of(disk, self._job.block_log2)
        doubt = "an audit found changes that tracking had missed" if vm.distrusts(disk.disk_id) else vm.doubt
        doubt = doubt or left_out(vm.base, disk.disk_id)
        told = Told()
        if vm.snapshot is not None and comparable(vm.base, disk, log2) is None:
            if not disk.allocation:
                told = ask_allocated(self._platform.trackers, vm.snapshot, disk, geometry)
        elif vm.snapshot is not None and not doubt:
            since = trackable(vm.base, disk, log2)
            told = ask_changes(self._platform.trackers, vm.snapshot, disk, geometry, since)
        return Ground(disk, log2, vm.base, told, doubt, job.on_cbt_loss, job.audit_rate, job.skip_unused)

    # --- commit -----------------------------------------------------------------------------------------------

    def _look_for_doubt(self, key: TaskKey) -> None:
        """A task is stopped: what it has found out about its base must outlive it."""
        task, vm = self._context.recorder.task(key), self._vms[key.vm]
        if vm.home is None:
            return  # it has found out nothing yet
        self._place(vm).bases.damaged(vm, task.error)
        if task.counters.missed_blocks:
            self._doubt_points(key)

    def _doubt_points(self, key: TaskKey) -> None:
        vm = self._vms[key.vm]
        self._place(vm).bases.missed(vm, key.disk, self._context.recorder.task(key).disk_name)

    def _commit(self, vm: VmWork) -> Event:
        """What an audit cast doubt on is marked before the point that makes it good exists.

        The hypervisor has the last word on what was read: a snapshot that it gave up meanwhile makes no point.
        """
        if vm.snapshot is not None:
            self._platform.driver.check_snapshot(vm.snapshot)
        for disk in vm.snapshot_disks():
            self._look_for_doubt(TaskKey(vm.info.ref.vm_id, disk.disk_id))
        point = self._place(vm).committer.commit(vm)
        self._homes.settle(self._key(vm))
        return PointCommitted(vm=vm.info.ref.vm_id, sid=point.sid)

    def _remove_snapshot(self, vm: VmWork) -> Event:
        return SnapshotRemoved(vm=vm.info.ref.vm_id, warning=self._drop_snapshot(vm, committed=True))

    def _abandon(self, vm: VmWork) -> Event:
        """Fence the write session, so that nothing can commit it later, and leave nothing on the hypervisor."""
        if vm.home is not None and give_up_write_session(vm.home.context, vm):
            return PointCommitted(vm=vm.info.ref.vm_id, sid=vm.sid)
        self._homes.settle(self._key(vm))
        vm.home = None  # the next attempt may go elsewhere
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


def datastore_of(info: VmInfo, disk_id: str) -> str:
    """What a disk lies on; "" if that is all the same."""
    return next((disk.datastore for disk in info.disks if disk.disk_id == disk_id), "")


def _with_disks(info: VmInfo) -> VmInfo:
    """``info`` itself. A VM without disks is an error: a point of nothing would look like a backup."""
    if not info.disks:
        raise SnapshotFailed(vm=info.ref.name, reason="it has no disks to back up")
    return info
