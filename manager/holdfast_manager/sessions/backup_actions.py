"""What each step of a backup does. The order is the machine's business (:mod:`vm_machine`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence

from holdfast_agent.errors import HoldfastError, VmNotFound
from holdfast_agent.model.rules import TransferRules
from holdfast_manager.catalog.values import JobSpec
from holdfast_manager.scheduler.capacities import job_limit, server_limits
from holdfast_manager.steps import Step
from holdfast_plugins.api import OffersTransports, VmInfo

from .base_points import BasePoints
from .change_choice import backup_order, choose_mode
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
from .hypervisor_side import Platform, datastore_of
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
from .quiescing import Quiesced
from .spacing import SnapshotSpacing
from .storage_care import StorageCare
from .tasks import Context, TaskWork
from .vm_work import VmWork
from .write_sessions import GivenUp, begin_write_session, give_up_write_session, settle_left_behind
from .writing_movers import start_writing_movers, told_rules


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

    # --- 1 start ------------------------------------------------------------------------------------------------------

    def _plan(self) -> Event:
        """Step `start`: the job's VMs, and that the repository is there, before anything is done to any VM."""
        for home in self._homes.open():
            settle_left_behind(home.context)
        planned, unplanned = list[PlannedVm](), list[str]()

        def leave_out(name: str, error: HoldfastError) -> None:
            self._context.recorder.note(f"{name}: {error}", "error", Step.START)
            unplanned.append(name)

        def missing(error: VmNotFound) -> None:
            if self._wants(entry := str(error.fields["vm"])):
                leave_out(entry, error)

        for ref in self._platform.broker.resolve(self._job.include, self._job.exclude, missing):
            if not self._wants(ref.vm_id, ref.name):
                continue
            try:
                info = self._platform.known_facts(ref)
            except HoldfastError as error:
                leave_out(ref.name, error)
                continue
            self._vms[ref.vm_id] = VmWork(info)
            self._add_tasks(info)
            planned.append(PlannedVm(ref.vm_id, ref.name, tuple(disk.disk_id for disk in info.disks)))
        return VmsPlanned(vms=tuple(planned), unplanned=tuple(unplanned))

    def _wants(self, *names: str) -> bool:
        return self._only is None or not self._only.isdisjoint(names)

    def _add_tasks(self, info: VmInfo) -> None:
        for disk in info.disks:
            key = TaskKey(info.ref.vm_id, disk.disk_id)
            self._context.recorder.add_task(key, info.ref.name, disk.name, disk.size_bytes)

    # --- 2 schedule ---------------------------------------------------------------------------------------------------

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

    # --- 3 movers, 4 rules, 5 connect (the movers do that by themselves) ----------------------------------------------

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

    # --- 6 inventory, 7 guest, 8 snapshot -----------------------------------------------------------------------------

    def _read_inventory(self, vm: VmWork) -> Event:
        vm.info = self._platform.facts(vm.info.ref)
        self._add_tasks(vm.info)
        disks = tuple(disk.disk_id for disk in vm.info.disks)
        return InventoryRead(vm=vm.info.ref.vm_id, disks=disks, warning=vm.incomplete())

    def _take_snapshot(self, vm: VmWork) -> Event:
        ref, series = vm.info.ref, self._place(vm).keys.repository_id
        self._spacing.wait({disk.datastore for disk in vm.info.disks if disk.datastore})

        def announce(quiesced: Quiesced) -> None:
            consistency, note, warning = quiesced.consistency, quiesced.note, quiesced.warning
            event = GuestQuiesced(vm=ref.vm_id, consistency=consistency, note=note, warning=warning)
            self._context.driver.post(event, quiesced.took_s)

        tag = f"holdfast {self._job.name} {self._context.session}"
        taken = self._platform.take_snapshot(vm, tag, series, announce)
        return SnapshotTaken(
            vm=ref.vm_id,
            snapshot=taken.snapshot.snapshot_id,
            frozen_s=round(taken.frozen_s, 3),
            note=taken.snapshot.note,
            warning=taken.warning,
        )

    # --- 9 transfer ---------------------------------------------------------------------------------------------------

    def _begin_transfer(self, key: TaskKey) -> None:
        """Tells TransferBegan by itself: a transfer of what was tracked may be over before the agent has answered."""
        began, vm = time.monotonic(), self._vms[key.vm]
        disk = self._platform.disk_for(vm, key.disk, self.tasks.proxy_of(key))
        ground = self._platform.ground(vm, disk, self._job)
        decision = vm.decisions[key.disk] = choose_mode(ground)
        event = TransferBegan(task=key, mode=decision.mode, reason=decision.reason)
        self._context.driver.post(event, time.monotonic() - began)
        self._care.transfers(key, datastore_of(vm.info, key.disk))
        order = backup_order(ground, decision)
        vm.ways[key.disk] = order.disks
        self.tasks.begin(key, order, writes=self._place(vm).context.repository.name)

    # --- 10 commit ----------------------------------------------------------------------------------------------------

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
        self._platform.check_snapshot(vm)
        for disk in vm.snapshot_disks():
            self._look_for_doubt(TaskKey(vm.info.ref.vm_id, disk.disk_id))
        point = self._place(vm).committer.commit(vm)
        self._homes.settle(self._key(vm))
        return PointCommitted(vm=vm.info.ref.vm_id, sid=point.sid)

    def _remove_snapshot(self, vm: VmWork) -> Event:
        warning = self._platform.drop_snapshot(vm, committed=True)
        stood = round(time.monotonic() - vm.snapshot_since, 3)
        return SnapshotRemoved(vm=vm.info.ref.vm_id, warning=warning, stood_s=0.0 if warning else stood)

    def _abandon(self, vm: VmWork) -> Event:
        """Fence the write session, so that nothing can commit it later, and leave nothing on the hypervisor."""
        given_up = GivenUp.GONE if vm.home is None else give_up_write_session(vm.home.context, vm)
        self._homes.settle(self._key(vm))
        if given_up is GivenUp.COMMITTED:
            return PointCommitted(vm=vm.info.ref.vm_id, sid=vm.sid)
        unsettled = given_up is GivenUp.UNSETTLED and not self._homes.are_several
        if not unsettled:
            vm.home = None  # the next attempt may go elsewhere
        warning = self._platform.drop_snapshot(vm, committed=False)
        if warning:
            self._context.recorder.note(warning, "warning", Step.COMMIT)
        return VmAbandoned(vm=vm.info.ref.vm_id, unsettled=unsettled)
