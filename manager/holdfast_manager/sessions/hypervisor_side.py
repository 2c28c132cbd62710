"""The hypervisor's side of a session: a VM's facts, its snapshot, what its change trackers tell of a disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from holdfast_agent.errors import HoldfastError, SnapshotFailed
from holdfast_manager.broker.broker import Broker
from holdfast_manager.catalog.values import JobSpec, ServerLimits
from holdfast_plugins.api import (
    ChangeTracker,
    HypervisorDriver,
    Journal,
    OffersTransports,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

from .change_choice import Ground, change_ids, comparable, geometry_of, left_out, trackable
from .quiescing import DriverAccess, Guest, Quiesced, Taken, better, snapshot_quiesced
from .tracking import Told, ask_allocated, ask_changes
from .vm_work import VmWork


class Destination(msgspec.Struct, frozen=True):
    """The hypervisor that a VM is restored to, or runs on."""

    driver: HypervisorDriver
    journal: Journal


class Platform(msgspec.Struct, frozen=True):
    """One server in one backup session. As thread-safe as its driver: one VM is never in two hands at once."""

    server: str
    limits: ServerLimits
    driver: HypervisorDriver
    broker: Broker
    trackers: Sequence[tuple[str, ChangeTracker]]
    journal: Journal
    guest: Guest | None
    snapshot_options: object

    def known_facts(self, vm: VmRef) -> VmInfo:
        """The VM as the broker knows it. Raises :class:`SnapshotFailed` for one without disks, as does the next."""
        return _with_disks(self.broker.info(vm))

    def facts(self, vm: VmRef) -> VmInfo:
        """The VM as it is now."""
        return _with_disks(self.driver.vm_info(vm))

    def take_snapshot(self, vm: VmWork, tag: str, series: str, announce: Callable[[Quiesced], None]) -> Taken:
        """All disks at one instant, the guest at rest; ``vm`` has the snapshot then. Raises as ``snapshot_quiesced``.

        ``series``: among whose points the base is looked for. ``announce`` is told of the guest before.
        """
        request = SnapshotRequest(
            vm=vm.info.ref,
            tag=tag,
            disk_ids=tuple(disk.disk_id for disk in vm.info.disks),
            options=self.snapshot_options,
            series=series,
            since=change_ids(vm.base),
        )
        taken = snapshot_quiesced(
            self.guest,
            vm.info,
            DriverAccess(self.driver, vm.info.ref),
            lambda: self.driver.create_snapshot(request, self.journal),
            lambda unwanted: self.driver.remove_snapshot(unwanted, False, self.journal),
            announce,
        )
        vm.snapshot_since = time.monotonic()
        vm.snapshot, vm.consistency = taken.snapshot, better(taken.consistency, taken.snapshot.consistency)
        return taken

    def check_snapshot(self, vm: VmWork) -> None:
        """Raises what the hypervisor has against the snapshot now that all of it was read."""
        if vm.snapshot is not None:
            self.driver.check_snapshot(vm.snapshot)

    def drop_snapshot(self, vm: VmWork, committed: bool) -> str:
        """Remove the snapshot; a sentence if that failed, in which case its obligation stays open."""
        if vm.snapshot is None:
            return ""
        try:
            self.driver.remove_snapshot(vm.snapshot, committed, self.journal)
        except HoldfastError as error:
            return str(error)
        vm.snapshot = None
        return ""

    def disk_for(self, vm: VmWork, disk_id: str, proxy: str) -> SnapshotDisk:
        """The disk in the snapshot, with the ways to it that ``proxy`` has."""
        disk = vm.snapshot_disk(disk_id)
        if vm.snapshot is None or not isinstance(self.driver, OffersTransports):
            return disk
        return self.driver.disk_for(vm.snapshot, disk, proxy, self.journal)

    def ground(self, vm: VmWork, disk: SnapshotDisk, job: JobSpec) -> Ground:
        """All that the choice of a mode rests on. Trackers are asked here, and only what their answer is needed for."""
        log2, geometry = job.block_log2, geometry_of(disk, job.block_log2)
        doubt = "an audit found changes that tracking had missed" if vm.distrusts(disk.disk_id) else vm.doubt
        doubt = doubt or left_out(vm.base, disk.disk_id)
        told = Told()
        if vm.snapshot is not None and comparable(vm.base, disk, log2) is None:
            if not disk.allocation:
                told = ask_allocated(self.trackers, vm.snapshot, disk, geometry)
        elif vm.snapshot is not None and not doubt:
            since = trackable(vm.base, disk, log2)
            told = ask_changes(self.trackers, vm.snapshot, disk, geometry, since)
        return Ground(disk, log2, vm.base, told, doubt, job.on_cbt_loss, job.audit_rate, job.skip_unused)


def datastore_of(info: VmInfo, disk_id: str) -> str:
    """What a disk lies on; "" if that is all the same."""
    return next((disk.datastore for disk in info.disks if disk.disk_id == disk_id), "")


def _with_disks(info: VmInfo) -> VmInfo:
    """``info`` itself. A VM without disks is an error: a point of nothing would look like a backup."""
    if not info.disks:
        raise SnapshotFailed(vm=info.ref.name, reason="it has no disks to back up")
    return info
