"""The driver: the protocol's methods, put together from VMs that run, VMs that do not, and restores."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast_agent.errors import (
    AlreadyExists,
    ChangeTrackingLost,
    GuestAgentSilent,
    HypervisorUnreachable,
    SnapshotFailed,
    SnapshotNotRemoved,
    VmNotFound,
)
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import (
    AgentChannel,
    DiskBitmap,
    Journal,
    RestoreTarget,
    ServedDisk,
    Snapshot,
    SnapshotRequest,
    Told,
    VmInfo,
    VmRef,
)
from holdfast_plugins.guest.agent_socket import AgentSocket
from holdfast_plugins.hypervisors.images.driver import BESIDE
from holdfast_plugins.hypervisors.resting_images import is_stamp
from holdfast_plugins.hypervisors.rewriting import is_in_place, runs

from .guest_agent import agent_socket
from .instant import INSTANT, MIGRATION, Instants
from .inventory import describe, snapshot_nodes, vm_info_of
from .memory import Memory
from .monitor import CommandRefused, QemuNotRunning, connected
from .options import Address, QemuOptions
from .resting import Resting, describe_resting, rest, rewritable
from .restores import Restores
from .running import SNAPSHOT, RunningSnapshots


class QemuDriver:
    """A ``HypervisorDriver`` for QEMU processes. Thread-safe; holds no connection between calls."""

    def __init__(self, options: QemuOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._memory = Memory(Path(options.scratch_dir))
        self._running = RunningSnapshots(options)
        self._restores = Restores(options.restore_dir)
        self._instants = Instants(options)
        self._resting: dict[str, Resting] = {}
        self._lock = threading.Lock()

    def connect(self) -> None:
        """Raises ``HypervisorUnreachable`` when the directory of monitors is not there. A VM may be off."""
        self._addresses()

    def close(self) -> None:
        """Lets go of images that are only kept from being written."""
        with self._lock:
            for resting in self._resting.values():
                resting.images.release()
            self._resting.clear()

    def list_vms(self) -> Sequence[VmRef]:
        """All VMs that the options name, those whose monitor is in the directory, and those that once were there and
        whose images still are.
        """
        return [VmRef(name, name) for name in self._addresses()]

    def vm_info(self, vm: VmRef) -> VmInfo:
        """Of a VM that is off or busy with another backup, what was remembered of it."""
        address, vm = self._address(vm), VmRef(vm.vm_id, vm.vm_id)
        try:
            with connected(vm.name, address, self._options.timeout) as monitor:
                known = self._memory.recall(vm.name) if snapshot_nodes(monitor) else None
                description = known or describe(vm, monitor)
                if known is None:
                    self._memory.keep(vm.name, description)
                return vm_info_of(vm, description, running=bool(monitor.run("query-status")["running"]))
        except QemuNotRunning:
            remembered = self._memory.recall(vm.name)
            if remembered is None:
                raise
            return describe_resting(vm, remembered)
        except CommandRefused as error:
            raise HypervisorUnreachable(server=vm.name, reason=str(error)) from error
        except OSError as error:
            raise HypervisorUnreachable(server=self._options.scratch_dir, reason=str(error)) from error

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        try:
            return self._running.create(request, self._address(request.vm), journal)
        except QemuNotRunning:
            description = self._memory.recall(request.vm.name)
            if description is None:
                raise
            resting = rest(request.vm, description, request.disk_ids)
        with self._lock:
            self._resting[resting.snapshot.snapshot_id] = resting
        return resting.snapshot

    def check_snapshot(self, snapshot: Snapshot) -> None:
        resting = self._resting_of(snapshot)
        if resting is None:
            self._running.check(snapshot, self._address(snapshot.vm))
        elif resting.images.written_to():
            reason = (
                f"{', '.join(resting.images.written_to())} was written to while the VM was off and its images were read"
            )
            raise SnapshotFailed(vm=snapshot.vm.name, reason=reason)

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        with self._lock:
            resting = self._resting.pop(snapshot.snapshot_id, None)
        if resting is None:
            self._running.remove(snapshot, self._address(snapshot.vm), committed, journal)
        else:
            resting.images.release()

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        vm = data.get("vm", "")
        if kind == BESIDE:
            self._restores.fulfil(kind, data)
        elif kind in (INSTANT, MIGRATION):
            self._instants.fulfil(kind, data)
        elif kind == SNAPSHOT:
            self._running.fulfil(data, self._addresses().get(vm))
        else:
            reason = f"{kind!r} is not an obligation of this plugin"
            raise SnapshotNotRemoved(snapshot=kind, vm=vm or "a VM", reason=reason)

    def guest_agent(self, vm: VmRef) -> AgentChannel:
        """Raises ``GuestAgentSilent`` for a VM that has no agent, or no Unix socket for it."""
        try:
            with connected(vm.name, self._address(vm), self._options.timeout) as monitor:
                path = agent_socket(monitor)
        except (CommandRefused, HypervisorUnreachable) as error:
            raise GuestAgentSilent(vm=vm.name, reason=str(error)) from error
        if path is None:
            reason = "it was started without a virtserialport org.qemu.guest_agent.0 that has a Unix socket behind it"
            raise GuestAgentSilent(vm=vm.name, reason=reason)
        return AgentSocket(path, vm.name)

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        """Raises ``UsageError`` where the server has no directory for restored VMs."""
        return self._restores.prepare(name, info, overwrite, journal)

    def prepare_rollback(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        """As ``RollsBack`` has it, for a VM that was seen running before."""
        vm = VmRef(name, name)
        description = self._memory.recall(name)
        if description is None or name not in self._addresses():
            raise VmNotFound(vm=name, server=self._options.sockets or "this server")
        if self._is_running(vm):
            raise runs(name, "now")
        return rewritable(vm, description, {disk.disk_id for disk in info.disks}, since)

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        """The VM is not started: that is for its owner, by the file ``start`` in its folder."""
        if is_in_place(target):
            if self._is_running(target.vm):
                raise runs(target.vm.name, "although its disks were being rewritten")
            return target.vm
        return self._restores.finish(target, info, journal)

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        """Of a rollback nothing is to be removed, and nothing can be taken back."""
        if not is_in_place(target):
            self._restores.abandon(target, journal)

    def start_instant(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        if name in self._addresses():
            raise AlreadyExists(kind="VM", name=name)
        return self._instants.start(name, info, disks, journal)

    def resume_instant(self, vm: VmRef) -> None:
        self._instants.resume(vm)

    def migrate_instant(self, vm: VmRef, journal: Journal, told: Told) -> None:
        self._instants.migrate(vm, journal, told)

    def stop_instant(self, vm: VmRef, journal: Journal) -> None:
        self._instants.stop(vm)

    def changes(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        """As ``ChangeTracker.changed``. Raises ``ChangeTrackingLost``."""
        resting = self._resting_of(snapshot)
        if resting is None and is_stamp(since):
            raise ChangeTrackingLost(reason="the VM was off at the last backup, and nothing tracked its start")
        if resting is None:
            return DiskBitmap(self._running.bitmap_of(snapshot, disk_id, since))
        if resting.images.stamps.get(disk_id) == since:
            return []
        raise ChangeTrackingLost(reason="the VM is off, and its QEMU cannot be asked what it wrote before")

    def _is_running(self, vm: VmRef) -> bool:
        try:
            with connected(vm.name, self._address(vm), self._options.timeout):
                return True
        except QemuNotRunning:
            return False

    def _resting_of(self, snapshot: Snapshot) -> Resting | None:
        with self._lock:
            return self._resting.get(snapshot.snapshot_id)

    def _address(self, vm: VmRef) -> Address:
        """Raises ``VmNotFound``."""
        address = self._addresses().get(vm.vm_id)
        if address is None:
            raise VmNotFound(vm=vm.name, server=self._options.sockets or "this server")
        return address

    def _addresses(self) -> dict[str, Address]:
        try:
            found = self._options.monitors()
        except OSError as error:
            raise HypervisorUnreachable(server=self._options.sockets, reason=error.strerror or str(error)) from error
        for name in self._memory.names() if self._options.sockets else ():
            found.setdefault(name, Address(path=str(Path(self._options.sockets) / f"{name}.qmp")))
        return found
