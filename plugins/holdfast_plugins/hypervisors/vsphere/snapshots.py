"""Making snapshots: what must hold before, what is promised first, and what a snapshot is to those who read it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import msgspec

from holdfast_agent.errors import HoldfastError, SnapshotFailed, SnapshotNotRemoved
from holdfast_plugins.api import ConsistencyLevel, Journal, Snapshot, SnapshotDisk, SnapshotRequest, VmRef

from ..tracking_names import new_tracking_name, parse_tracking_name
from .binding import VsphereRefused
from .connection import Connection
from .datastores import look_at, short_of_room
from .devices import Disk, disks_of
from .inventory import LATELY_S, Inventory
from .machine import MachineState, look, snapshots_of
from .options import Quiesce, VsphereOptions, VsphereSnapshotOptions
from .promises import SNAPSHOT, Promised, parse_promised
from .properties import properties_of
from .removal import Removal
from .space_guard import SpaceGuard
from .tasks import finished
from .tracked_ids import tracked_id
from .transports import Source, Transports

log = logging.getLogger(__name__)

_QUIESCE_MINUTES = 5
"""For which VMware Tools may take to bring a guest to rest. Windows gives its writers one minute of them."""


class Taken(msgspec.Struct, frozen=True):
    """A snapshot that exists. ``number``: of its obligation. ``entity``: its managed object, ``machine``: its VM's.

    ``disks``: by id, as the snapshot has them.
    """

    promised: Promised
    number: int
    machine: Any
    entity: Any
    disks: Mapping[str, Disk]


class Snapshots:
    """All snapshots of one driver. Thread-safe, as its callers never have two hands on one VM."""

    def __init__(
        self, connection: Connection, inventory: Inventory, options: VsphereOptions, transports: Transports
    ) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options
        self._transports = transports
        self._removal = Removal(connection, inventory, options.task_timeout)
        self._guard = SpaceGuard(connection, options, self._give_up)
        self._taken: dict[str, Taken] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        self._guard.close()

    def create(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        """As ``HypervisorDriver.create_snapshot``."""
        machine = self._inventory.find(request.vm, LATELY_S)
        with _failing(request.vm):
            state = self._ready(machine, request)
            self._track(state)
            promised = Promised(request.vm.vm_id, request.vm.name, str(new_tracking_name(request.series)))
            number = journal.promise(SNAPSHOT, promised.data())
            try:
                entity, quiesced, note = self._freeze(state, promised, request)
                taken = Taken(promised, number, machine, entity, self._frozen(entity, request))
                disks = self._told(taken)
            except BaseException:
                self._undo(promised, number, journal)
                raise
        with self._lock:
            self._taken[promised.name] = taken
        self._guard.watch(promised.name, state.datastores)
        level = ConsistencyLevel.FILE_SYSTEM if quiesced else ConsistencyLevel.CRASH
        return Snapshot(promised.name, request.vm, disks, note, level)

    def check(self, snapshot: Snapshot) -> None:
        """As ``HypervisorDriver.check_snapshot``: it is there, was never given up, and is not too old."""
        taken = self.taken(snapshot.snapshot_id)
        reason = self._guard.reason(snapshot.snapshot_id)
        if taken is None or reason:
            raise SnapshotFailed(vm=snapshot.vm.name, reason=reason or "it was removed")
        with _failing(snapshot.vm):
            name = taken.promised.name
            found = next((each for each in snapshots_of(self._connection, taken.machine) if each.name == name), None)
            if found is None:
                raise SnapshotFailed(vm=snapshot.vm.name, reason="somebody has removed it before all was read")
            if self._connection.server_time() - found.created > timedelta(hours=self._options.max_snapshot_hours):
                reason = f"it is older than {self._options.max_snapshot_hours:g} hours (max_snapshot_hours)"
                raise SnapshotFailed(vm=snapshot.vm.name, reason=reason)

    def remove(self, snapshot: Snapshot, journal: Journal) -> None:
        """As ``HypervisorDriver.remove_snapshot``: a restore point rests on its change id, not on what is removed."""
        taken = self.taken(snapshot.snapshot_id)
        if taken is None:
            return  # it was removed before
        self._guard.forget(snapshot.snapshot_id)
        with _not_removing(taken.promised):
            self._transports.release(taken.promised.name)
            self._removal.end(taken.promised)
        journal.strike(taken.number)
        with self._lock:
            del self._taken[snapshot.snapshot_id]

    def disk_for(self, snapshot: Snapshot, disk: SnapshotDisk, proxy: str, journal: Journal) -> SnapshotDisk:
        """As ``OffersTransports.disk_for``."""
        taken = self.taken(snapshot.snapshot_id)
        if taken is None:
            raise SnapshotFailed(vm=snapshot.vm.name, reason="it was removed")
        urls, access = self._transports.urls_for(_source(taken, taken.disks[disk.disk_id]), proxy, journal)
        return msgspec.structs.replace(disk, urls=urls, access=access)

    def fulfil(self, data: Mapping[str, str]) -> None:
        """Remove what a dead session left."""
        promised = parse_promised(data)
        if promised is None:
            raise SnapshotNotRemoved(snapshot=data.get("name", "?"), vm="a VM", reason="it is not of this plugin")
        with _not_removing(promised):
            self._removal.end(promised)

    def taken(self, snapshot_id: str) -> Taken | None:
        """What is known of a snapshot that exists."""
        with self._lock:
            return self._taken.get(snapshot_id)

    # --- before -------------------------------------------------------------------------------------------------------

    def _ready(self, machine: Any, request: SnapshotRequest) -> MachineState:
        """The VM, when it may have another snapshot. Raises :class:`SnapshotFailed`."""
        vm = request.vm.name
        state = look(self._connection, machine)
        if not state.connected:
            raise SnapshotFailed(vm=vm, reason="its host is not connected to the vCenter")
        if state.needs_consolidation:
            log.warning("%s has deltas that no snapshot accounts for; they are merged first", vm)
            self._removal.consolidate(machine)
            state = look(self._connection, machine)
        state = self._without_old_ones(state, request)
        if len(state.snapshots) >= self._options.max_snapshots:
            raise SnapshotFailed(vm=vm, reason=f"it has {len(state.snapshots)} snapshots already (max_snapshots)")
        if reason := short_of_room(look_at(self._connection, state.datastores), self._options.min_free_gib):
            raise SnapshotFailed(vm=vm, reason=reason)
        self._transports.check(request.vm, self._wanted(state.devices, request))
        return state

    def _without_old_ones(self, state: MachineState, request: SnapshotRequest) -> MachineState:
        """Remove snapshots of Holdfast's that are too old to make a point, whose journal is lost. Never others'."""
        now, limit = self._connection.server_time(), timedelta(hours=self._options.max_snapshot_hours)
        old = [each for each in state.snapshots if parse_tracking_name(each.name) and now - each.created > limit]
        for each in old:
            log.warning("%s has a snapshot that a lost session left: %s", request.vm.name, each.name)
            self._removal.end(Promised(request.vm.vm_id, request.vm.name, each.name))
        return look(self._connection, state.entity) if old else state

    def _track(self, state: MachineState) -> None:
        """Switch changed-block tracking on where that is safe: not under snapshots."""
        if state.tracked or not state.trackable or state.snapshots or not self._options.enable_cbt:
            return
        spec = self._connection.vim.vm.ConfigSpec(changeTrackingEnabled=True)
        try:
            self._run(lambda _: state.entity.ReconfigVM_Task(spec))
        except VsphereRefused as error:
            log.warning("changed-block tracking of %s stays off: %s", state.entity._GetMoId(), error)

    # --- making -------------------------------------------------------------------------------------------------------

    def _freeze(self, state: MachineState, promised: Promised, request: SnapshotRequest) -> tuple[Any, bool, str]:
        """The snapshot, whether the guest's file systems were brought to rest for it, and what to say of that."""
        options = request.options if isinstance(request.options, VsphereSnapshotOptions) else VsphereSnapshotOptions()
        if options.quiesce is Quiesce.NO or not state.running:
            return self._snapshot(state, promised, request.tag, None), False, "snapshot"
        if not state.tools_running:
            if options.quiesce is Quiesce.REQUIRE:
                raise SnapshotFailed(vm=promised.vm_name, reason="VMware Tools do not run in its guest")
            note = "snapshot; VMware Tools do not run in the guest"
            return self._snapshot(state, promised, request.tag, None), False, note
        spec = self._connection.vim.vm.GuestQuiesceSpec(timeout=_QUIESCE_MINUTES)
        try:
            return self._snapshot(state, promised, request.tag, spec), True, "snapshot, quiesced by VMware Tools"
        except VsphereRefused as error:
            if options.quiesce is Quiesce.REQUIRE:
                raise
            log.warning("%s could not be quiesced: %s", promised.vm_name, error)
            self._removal.end(promised)  # one that failed late may be there all the same
            note = f"snapshot; VMware Tools could not quiesce the guest: {error}"
        return self._snapshot(state, promised, request.tag, None), False, note

    def _snapshot(self, state: MachineState, promised: Promised, tag: str, quiesce: Any) -> Any:
        name, machine = promised.name, state.entity
        return self._run(lambda _: machine.CreateSnapshotEx_Task(name, tag, memory=False, quiesceSpec=quiesce))

    def _frozen(self, entity: Any, request: SnapshotRequest) -> Mapping[str, Disk]:
        path = "config.hardware.device"
        devices = properties_of(self._connection, entity, (path,)).get(path) or ()
        return {disk.disk_id: disk for disk in self._wanted(devices, request)}

    def _wanted(self, devices: Sequence[Any], request: SnapshotRequest) -> list[Disk]:
        vm = request.vm.name
        found = {
            disk.disk_id: disk
            for disk in disks_of(self._connection.vim, devices, lambda disk_id: disk_id not in request.disk_ids)
        }
        missing = sorted(set(request.disk_ids) - set(found))
        if missing:
            raise SnapshotFailed(vm=vm, reason=f"it has no disk {', '.join(missing)} any more")
        return [found[disk_id] for disk_id in request.disk_ids]

    def _told(self, taken: Taken) -> tuple[SnapshotDisk, ...]:
        made = []
        for disk in taken.disks.values():
            urls, access = self._transports.urls(_source(taken, disk))
            made.append(
                SnapshotDisk(
                    disk.disk_id, disk.label, disk.size_bytes, urls, tracked_id(disk), allocation=False, access=access
                )
            )
        return tuple(made)

    def _undo(self, promised: Promised, number: int, journal: Journal) -> None:
        """After a failure, which must not be hidden: what cannot be undone now stays in the journal.

        Somebody may hold the guest still meanwhile, so a snapshot that takes its time is not waited for.
        """
        try:
            self._transports.release(promised.name)
            self._removal.end(promised, wait_s=0)
        except (HoldfastError, VsphereRefused) as error:
            log.warning("what is left of the snapshot %s stays to be removed: %s", promised.name, error)
        else:
            journal.strike(number)

    def _give_up(self, name: str) -> None:
        """Called by the guard when room is running out: the VM comes first. The obligation stays for :meth:`remove`."""
        taken = self.taken(name)
        if taken is not None:
            self._transports.release(name)
            self._removal.end(taken.promised)

    def _run(self, deed: Any) -> Any:
        return finished(self._connection, self._connection.act(deed), self._options.task_timeout)


def _source(taken: Taken, disk: Disk) -> Source:
    vm = VmRef(taken.promised.vm, taken.promised.vm_name)
    return Source(taken.promised.name, vm, taken.machine, taken.entity, disk)


@contextmanager
def _failing(vm: VmRef) -> Iterator[None]:
    try:
        yield
    except VsphereRefused as error:
        raise SnapshotFailed(vm=vm.name, reason=str(error)) from error


@contextmanager
def _not_removing(promised: Promised) -> Iterator[None]:
    try:
        yield
    except (VsphereRefused, HoldfastError) as error:
        raise SnapshotNotRemoved(snapshot=promised.name, vm=promised.vm_name, reason=str(error)) from error
