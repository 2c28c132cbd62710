"""What each step of a copy does. It is a backup whose VMs are restore points of another repository.

It runs on the backup's machine, each point in the place of a VM: a point is frozen for ever, so that the steps
`guest` and `snapshot` only tell what it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from holdfast_agent.errors import (
    HoldfastError,
    ObjectDamaged,
    ObjectMissing,
    OriginDamaged,
    PointNotAuthentic,
    PointNotFound,
)
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.rules import TransferRules
from holdfast_manager.catalog.point_rows import row_of_point
from holdfast_manager.catalog.values import JobSpec, PointState
from holdfast_manager.reports.sentences import counted
from holdfast_manager.steps import Step

from .copy_committing import CopyCommitter, CopyWork
from .copy_plan import CopyPlan, Pair, best_base, choose_transfer, name_of, plan_copy, vm_of
from .events import (
    Event,
    GuestQuiesced,
    InventoryRead,
    PlannedVm,
    PointCommitted,
    RepositorySessionBegun,
    SnapshotRemoved,
    SnapshotTaken,
    TaskKey,
    VmAbandoned,
    VmsPlanned,
)
from .failures import failure
from .homes import Home, Homes, VmKey
from .instructions import (
    AbandonVm,
    BeginRepositorySession,
    CommitPoint,
    Instruction,
    PlanVms,
    ReadInventory,
    RemoveSnapshot,
    RequestSlot,
    StopTask,
    TakeSnapshot,
    TaskInstruction,
    VmInstruction,
)
from .point_reader import PointReader
from .point_tasks import PointTasks, PointTransfer, Way
from .requests import CopyRequest
from .tasks import Context
from .write_sessions import (
    GivenUp,
    begin_write_session,
    give_up_write_session,
    open_repositories,
    settle_left_behind,
)

_NAMED = 5


class CopyActions:
    """Carries out the instructions of :class:`~.backup_machine.BackupMachine` for a copy."""

    def __init__(
        self,
        context: Context,
        request: CopyRequest,
        origins: Sequence[PointReader],
        homes: Homes,
        job: JobSpec | None = None,
    ) -> None:
        """``origins``: what is read. ``job``: under which the copies are filed, whose retention rules them."""
        self._context = context
        self._job = job
        self._request = request
        self._origins = origins
        self._homes = homes
        self._committer = CopyCommitter(context, request, job)
        self._works: dict[str, CopyWork] = {}
        self._lock = threading.Lock()  # of the bases: points of one VM follow each other, VMs do not wait for another
        self._bases: dict[VmKey, tuple[Pair, ...]] = {}
        self._unwell: frozenset[Sid] = frozenset()
        copies = job if job is not None and job.copy is not None else None
        rules = TransferRules(
            request.compression,
            streams=copies.streams if copies is not None else 1,
            bandwidth_bytes_per_s=request.bandwidth_bytes_per_s,
        )
        self._points = PointTasks(
            context, request.proxy, rules, lambda key: _way(self._works[key.vm]), self._transfer, copies
        )
        self.tasks = self._points.work

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case PlanVms():
                return self._plan()
            case RequestSlot():
                self._add_task(instruction.task)
                return self._points.perform(instruction)
            case StopTask():
                self._doubt(instruction.task)
                return self._points.perform(instruction)
            case TaskInstruction():
                return self._points.perform(instruction)
            case VmInstruction():
                return self._perform_point(instruction, self._works[instruction.vm])
        raise AssertionError(f"a copy has no {type(instruction).__name__}")

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        return failure(instruction, error)

    def tick(self) -> None:
        self.tasks.tick()

    def _perform_point(self, instruction: VmInstruction, work: CopyWork) -> Event:
        vm = instruction.vm
        match instruction:
            case BeginRepositorySession():
                return self._begin_session(work)
            case ReadInventory():
                return self._read_point(work)
            case TakeSnapshot():
                consistency = work.point.consistency
                self._context.driver.post(GuestQuiesced(vm=vm, consistency=consistency, note="as it was backed up"))
                note = f"restore point {work.point.sid[:12]} of {work.origin.repository.name}, frozen for ever"
                return SnapshotTaken(vm=vm, snapshot=work.point.sid, frozen_s=0.0, note=note)
            case CommitPoint():
                self._committer.commit(work)
                return self._committed(work)
            case RemoveSnapshot():
                return SnapshotRemoved(vm=vm, note="the original stays")
            case AbandonVm():
                given_up = give_up_write_session(work.home.context, work)
                if given_up is GivenUp.COMMITTED:
                    return self._committed(work)
                return VmAbandoned(vm=vm, unsettled=given_up is GivenUp.UNSETTLED)
        raise AssertionError(f"a point has no {type(instruction).__name__}")

    # --- start ------------------------------------------------------------------------------------------------------

    def _plan(self) -> Event:
        """Step `start`: both repositories are there; what the one has and the other has not."""
        open_repositories(self._context, *(origin.repository for origin in self._origins))
        readers = {home.repository.name: _reader(home) for home in self._homes.open()}
        for home in self._homes.open():
            settle_left_behind(home.context)
        keep = self._job.retention if self._job is not None and self._job.copy is not None else None
        asks = {origin.repository.name: origin.ask for origin in self._origins}
        there = {name: reader.ask for name, reader in readers.items()}
        plan = plan_copy(self._context.catalog, self._request, asks, there, keep)
        self._remember_unknown(plan)
        self._bases, self._unwell = dict(plan.bases), plan.unwell
        self._tell(plan)
        planned, unplanned = [], [sid[:12] for sid in plan.refused]
        by_id = {origin.repository.repository_id: origin for origin in self._origins}
        for chain in plan.chains:
            before: str | None = None
            try:
                home = self._home_of(chain)
            except HoldfastError as error:
                self._context.recorder.note(str(error), "error", Step.START)
                unplanned += [name_of(point) for point in chain]
                continue
            for point in chain:
                self._works[point.sid] = CopyWork(point, by_id[point.repository_id], home)
                disks = tuple(disk.disk_id for disk in point.disks)
                planned.append(PlannedVm(point.sid, name_of(point), disks, before))
                before = point.sid
        left_out = tuple(name_of(point) for point in plan.suspect)
        return VmsPlanned(vms=tuple(planned), unplanned=tuple(unplanned), left_out=left_out, noun="restore point")

    def _home_of(self, chain: Sequence[Point]) -> Home:
        """Where the points of one VM go. What they take is what they took where they are."""
        newest = chain[-1]
        stored = [
            row.stored_bytes
            for origin in self._origins
            for row in self._context.catalog.points.history(origin.repository.name, *vm_of(newest))
        ]
        size = sum(stored) or sum(disk.size_bytes for disk in newest.disks)
        return self._homes.choose(vm_of(newest), newest.vm_name, size)

    def _tell(self, plan: CopyPlan) -> None:
        note, names = self._context.recorder.note, (self._request.origin, self._request.repository)
        due = counted(sum(len(chain) for chain in plan.chains), "restore point")
        pruned = f", {plan.pruned} were pruned there and are not made again" if plan.pruned else ""
        unkept = f", {plan.unkept} would not be kept by the job's retention" if plan.unkept else ""
        note(f"{due} of {names[0]} to copy; {names[1]} has {plan.present} already{pruned}{unkept}")
        for sid in plan.refused:
            text = f"restore point {sid} of {names[0]} is not authentic, or too new for this version; it is not copied"
            note(text, "error", Step.START)
        if plan.suspect:
            which = _listed(f"{name_of(point)} ({point.sid[:12]})" for point in plan.suspect)
            text = f"suspect points are left out: {which}. After a verification of {names[0]} has found them whole"
            note(f"{text} they are copied; --point copies one all the same", "warning", Step.START)

    def _remember_unknown(self, plan: CopyPlan) -> None:
        """Copies that a session made which died before the catalogue knew of them."""
        catalog = self._context.catalog
        names = {home.keys.repository_id: home.repository.name for home in self._homes.open()}
        known = {row.sid for row in catalog.points.list(within=names.values(), limit=1 << 30)}
        for pair in (pair for bases in plan.bases.values() for pair in bases):
            if pair.copy.origin is not None and pair.copy.sid not in known:
                catalog.points.add(row_of_point(names[pair.copy.repository_id], pair.copy))
                self._context.recorder.note(f"the copy {pair.copy.sid[:12]} of {name_of(pair.copy)} was remembered")

    def _add_task(self, key: TaskKey) -> None:
        point = self._works[key.vm].point
        disk = _disk(point, key)
        self._context.recorder.add_task(key, name_of(point), disk.name, disk.size_bytes)

    # --- movers, inventory ------------------------------------------------------------------------------------------

    def _begin_session(self, work: CopyWork) -> Event:
        """The write session first, only then the base: what it builds on can then no longer be collected."""
        work.renew()
        begin_write_session(work.home.context, work.sid)
        work.base = self._choose_base(work)
        base = None if work.base is None else work.base.copy.sid
        return RepositorySessionBegun(vm=work.point.sid, sid=work.sid, base=base)

    def _choose_base(self, work: CopyWork) -> Pair | None:
        point, here = work.point, work.home.keys.repository_id
        with self._lock:
            pairs = [pair for pair in self._bases.get(vm_of(point), ()) if pair.copy.repository_id == here]
            pair = best_base(pairs, point, self._unwell)
        if pair is None:
            return None
        try:
            return Pair(_reader(work.home).point(pair.copy.sid), pair.original)
        except (PointNotFound, PointNotAuthentic, ObjectMissing) as error:
            self._context.recorder.note(f"{name_of(point)}: nothing to build on: {error}", "warning", Step.MOVERS)
            return None

    def _read_point(self, work: CopyWork) -> Event:
        """The points once more, now that a reader is there, which a collector waits for: else they were pruned."""
        work.point = work.origin.point(work.point.sid)
        if work.base is not None and work.base.original is not None:
            try:
                work.origin.point(work.base.original.sid)
            except (PointNotFound, PointNotAuthentic):
                work.base = Pair(work.base.copy, None)
        return InventoryRead(vm=work.point.sid, disks=tuple(disk.disk_id for disk in work.point.disks))

    # --- transfer ---------------------------------------------------------------------------------------------------

    def _transfer(self, key: TaskKey) -> PointTransfer:
        work = self._works[key.vm]
        transfer = choose_transfer(work.point, _disk(work.point, key), work.base)
        work.decisions[key.disk] = transfer.decision
        return transfer

    def _doubt(self, key: TaskKey) -> None:
        """A task that met damage: nothing builds on that point any more, here or in later sessions."""
        work, error = self._works[key.vm], self._context.recorder.task(key).error
        if error is None:
            return
        bad: Sid | None = None
        if error.code == OriginDamaged.code:
            bad = work.point.sid
        elif work.base is not None and error.code in (ObjectDamaged.code, ObjectMissing.code):
            bad = work.base.copy.sid
        if bad is not None:
            self._context.catalog.points.set_state(bad, PointState.SUSPECT)
            with self._lock:
                self._unwell |= {bad}

    # --- commit -----------------------------------------------------------------------------------------------------

    def _committed(self, work: CopyWork) -> Event:
        """The copy is there and remembered."""
        point, original = work.copy, work.point
        if point is None:
            raise AssertionError(f"nothing was made of the point {original.sid}")
        if original.sid in self._unwell:  # what was found wrong is wrong in the copy, too
            self._context.catalog.points.set_state(point.sid, PointState.SUSPECT)
        with self._lock:
            bases = [*self._bases.get(vm_of(point), ()), Pair(point, original)]
            self._bases[vm_of(point)] = tuple(sorted(bases, key=lambda pair: (pair.copy.created, pair.copy.sid)))
        return PointCommitted(vm=original.sid, sid=point.sid)


def _reader(home: Home) -> PointReader:
    return PointReader(home.context, home.repository, home.keys)


def _way(work: CopyWork) -> Way:
    return Way(work.origin, work.home, work)


def _disk(point: Point, key: TaskKey) -> DiskPoint:
    return next(disk for disk in point.disks if disk.disk_id == key.disk)


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_NAMED]) + (f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else "")
