"""Rollbacks: a point is written over the disks of a VM that is off, where they differ from it.

Proxies write past ESXi, whose changed-block tracking then knows nothing of what they wrote: so it is asked for the last
time before anything is written, ended, and begun anew when all is over. The next backup compares the disks by digest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from holdfast_agent.errors import (
    ChangeTrackingLost,
    DiskInUse,
    HoldfastError,
    SnapshotNotRemoved,
    UsageError,
    VmNotFound,
)
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import Journal, RestoreDisk, RestoreTarget, VmInfo, VmRef

from ..rewriting import in_place, runs
from .binding import VsphereRefused
from .changed_areas import changed_areas
from .connection import Connection
from .devices import Disk, disks_of
from .inventory import Inventory
from .machine import MachineState, look, without_reconfiguration
from .options import VsphereOptions
from .removal import Removal
from .tasks import finished
from .tracked_ids import change_before
from .transports import Source, Transports

log = logging.getLogger(__name__)

TRACKING = "vsphere-tracking"
"""Obligation to begin changed-block tracking of a VM anew. ``data``: see :class:`_Promised`."""
_MOST_AREAS = 1 << 16
"""That an order to an agent names; where more changed the disk is compared as a whole."""


class _Promised(msgspec.Struct, frozen=True):
    """``vm``: its id; ``vm_name``: for people."""

    vm: str
    vm_name: str

    @property
    def ref(self) -> VmRef:
        return VmRef(self.vm, self.vm_name)


class _Begun(msgspec.Struct, frozen=True):
    """A rollback that is under way. ``number``: of its obligation, None where nothing was tracked."""

    vm: VmRef
    state: MachineState
    disks: Mapping[str, Disk]
    number: int | None


class Rollbacks:
    """All rollbacks of one driver. Thread-safe."""

    def __init__(
        self, connection: Connection, inventory: Inventory, options: VsphereOptions, transports: Transports
    ) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options
        self._transports = transports
        self._removal = Removal(connection, inventory, options.task_timeout)
        self._begun: dict[str, _Begun] = {}
        self._lock = threading.Lock()

    def prepare(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        """As ``RollsBack.prepare_rollback``."""
        vm = self._named(name)
        state = self._resting(vm)
        wanted = {disk.disk_id for disk in info.disks}
        found = disks_of(self._connection.vim, state.devices, refuse=False)
        disks = {disk.disk_id: disk for disk in found if disk.disk_id in wanted}
        places = tuple(self._place(vm, state, disk, since.get(disk.disk_id, "")) for disk in disks.values())
        number = self._end_tracking(vm, state, journal)
        target = in_place(vm, places)
        with self._lock:
            self._begun[target.target_id] = _Begun(vm, state, disks, number)
        return target

    def place_for(self, target: RestoreTarget, disk: RestoreDisk, proxy: str, journal: Journal) -> RestoreDisk:
        """As ``WritesByTransports.place_for``."""
        begun = self._begun[target.target_id]
        source = _source(begun.vm, begun.state, begun.disks[disk.disk_id], target.target_id)
        url, access = self._transports.written_by(source, proxy, journal)
        return msgspec.structs.replace(disk, url=url, access=access)

    def finish(self, target: RestoreTarget, journal: Journal) -> VmRef:
        """As ``HypervisorDriver.finish_restore``. Raises ``DiskInUse`` for a VM that was started meanwhile."""
        begun = self._begun[target.target_id]
        self._transports.release(target.target_id)
        if look(self._connection, begun.state.entity).running:
            raise runs(begun.vm.name, "although its disks were being rewritten")
        self._end(target, begun, journal)
        return begun.vm

    def abandon(self, target: RestoreTarget, journal: Journal) -> None:
        """As ``HypervisorDriver.abandon_restore``."""
        begun = self._begun.get(target.target_id)
        if begun is not None:
            with _not_ending(begun.vm):
                self._transports.release(target.target_id)
                self._end(target, begun, journal)

    def fulfil(self, data: Mapping[str, str]) -> None:
        """Begin the tracking anew that a dead session had ended."""
        try:
            promised = msgspec.convert(dict(data), _Promised)
        except msgspec.ValidationError as error:
            reason = "it is not of this plugin"
            raise SnapshotNotRemoved(snapshot=TRACKING, vm=data.get("vm_name", "a VM"), reason=reason) from error
        with _not_ending(promised.ref):
            try:
                machine = self._inventory.find(promised.ref)
            except VmNotFound:
                log.warning("%s is not there any more, and nothing of it to be tracked", promised.vm_name)
                return
            timeout_s = self._options.task_timeout  # tracking may just be being switched off
            state = without_reconfiguration(self._connection, machine, timeout_s, lambda state: not state.tracked)
            self._track(state, wanted=True)

    def _named(self, name: str) -> VmRef:
        found = self._inventory.named(name)
        if len(found) > 1:
            raise UsageError(reason=f"there are {len(found)} VMs called {name}: it cannot be told which to roll back")
        if not found:
            raise VmNotFound(vm=name, server=self._connection.server)
        return found[0]

    def _resting(self, vm: VmRef) -> MachineState:
        """The VM, when its disks are files of its own that nobody writes. Raises ``DiskInUse``."""
        machine = self._inventory.find(vm)
        state = look(self._connection, machine)
        if state.running:
            raise runs(vm.name, "now")
        if state.needs_consolidation:
            self._removal.consolidate(machine)
            state = look(self._connection, machine)
        if state.snapshots:
            reason = "it has snapshots, which rest on its disks as they are; remove them, or restore with --overwrite"
            raise DiskInUse(url=f"the VM {vm.name}", reason=reason)
        return state

    def _place(self, vm: VmRef, state: MachineState, disk: Disk, since: str) -> RestoreDisk:
        writers, url = self._transports.writers(_source(vm, state, disk))
        changed = self._changed(state, disk, since)
        return RestoreDisk(
            disk.disk_id, disk.label, disk.size_bytes, url, create=False, changed=changed, writers=writers
        )

    def _changed(self, state: MachineState, disk: Disk, since: str) -> tuple[Extent, ...] | None:
        """What may differ from the point, where that can be told."""
        change = change_before(disk, since) if state.tracked else None
        if change is None:
            return None
        try:
            areas = tuple(changed_areas(self._connection, state.entity, disk, change))
        except ChangeTrackingLost as error:
            log.info("%s of %s is compared as a whole: %s", disk.disk_id, state.entity._GetMoId(), error)
            return None
        return areas if len(areas) <= _MOST_AREAS else None

    def _end_tracking(self, vm: VmRef, state: MachineState, journal: Journal) -> int | None:
        """Whatever is tracked from here on has another id than what a point may have kept."""
        if not state.tracked:
            return None
        number = journal.promise(TRACKING, msgspec.structs.asdict(_Promised(vm.vm_id, vm.name)))
        try:
            self._track(state, wanted=False)
        except BaseException:
            self._begin_tracking(state, number, journal)
            raise
        return number

    def _end(self, target: RestoreTarget, begun: _Begun, journal: Journal) -> None:
        if begun.number is not None:
            self._begin_tracking(begun.state, begun.number, journal)
        with self._lock:
            self._begun.pop(target.target_id, None)

    def _begin_tracking(self, state: MachineState, number: int, journal: Journal) -> None:
        """What cannot be done now stays in the journal."""
        try:
            self._track(look(self._connection, state.entity), wanted=True)
        except (VsphereRefused, HoldfastError) as error:
            log.warning("changed-block tracking of %s stays off for now: %s", state.entity._GetMoId(), error)
        else:
            journal.strike(number)

    def _track(self, state: MachineState, *, wanted: bool) -> None:
        if state.tracked is not wanted:
            spec = self._connection.vim.vm.ConfigSpec(changeTrackingEnabled=wanted)
            task = self._connection.act(lambda _: state.entity.ReconfigVM_Task(spec))
            finished(self._connection, task, self._options.task_timeout)


def _source(vm: VmRef, state: MachineState, disk: Disk, name: str = "") -> Source:
    return Source(name, vm, state.entity, None, disk)


@contextmanager
def _not_ending(vm: VmRef) -> Iterator[None]:
    try:
        yield
    except (VsphereRefused, HoldfastError) as error:
        raise SnapshotNotRemoved(snapshot="what a rollback made", vm=vm.name, reason=str(error)) from error
