"""The driver and the tracker of the fake hypervisor; of the size that a real plugin's begin with."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast_agent.errors import (
    AlreadyExists,
    ChangeTrackingLost,
    HypervisorUnreachable,
    PlatformError,
    SnapshotFailed,
    SnapshotNotRemoved,
    UsageError,
    VmNotFound,
)
from holdfast_agent.model.disk_url import file_url
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import (
    DiskInfo,
    HypervisorDriver,
    Journal,
    Registry,
    RestoreDisk,
    RestoreTarget,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

from .server import FakeServer, NotThere, ServerRefused

SNAPSHOT, HIDDEN_VM = "fake-snapshot", "fake-hidden-vm"
_OWN_NAME = re.compile(r"(new|vm)-[0-9]{1,9}")
_VM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class FakeOptions(msgspec.Struct, frozen=True):
    """None: the server is an object, given to the driver."""


class FakeDriver:
    """A ``HypervisorDriver`` for a :class:`FakeServer`. Thread-safe."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self._promises: dict[str, int] = {}
        self._lock = threading.Lock()

    def connect(self) -> None:
        with self._translated():
            self.server.ping()

    def close(self) -> None:
        """Nothing is held."""

    def list_vms(self) -> Sequence[VmRef]:
        with self._translated():
            return [VmRef(vm_id, name) for vm_id, name in self.server.names().items()]

    def vm_info(self, vm: VmRef) -> VmInfo:
        with self._translated(vm):
            found = self.server.describe(vm.vm_id)
        disks = (DiskInfo(disk_id, disk_id, disk.path.stat().st_size) for disk_id, disk in found.disks.items())
        return VmInfo(VmRef(vm.vm_id, found.name), tuple(disks), found.running, b'{"kind": "fake"}')

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        info = self.vm_info(request.vm)
        with self._failing(info.ref):
            name = self.server.new_name()
            self._promise(journal, SNAPSHOT, name)
            taken = self.server.snapshot(name, request.vm.vm_id, request.disk_ids, request.tag)
        disks = (
            SnapshotDisk(
                disk_id,
                disk_id,
                path.stat().st_size,
                (str(file_url(str(path))),),
                f"tick-{taken.tick}",
                allocation=False,
            )
            for disk_id, path in taken.disks.items()
        )
        return Snapshot(name, info.ref, tuple(disks))

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """Copies stay as they are."""

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        self.fulfil(SNAPSHOT, {"name": snapshot.snapshot_id})
        self._strike(journal, snapshot.snapshot_id)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        name = data.get("name", "")
        remove = {SNAPSHOT: self.server.remove_snapshot, HIDDEN_VM: self._delete_hidden}.get(kind)
        if remove is None or not _OWN_NAME.fullmatch(name):
            raise SnapshotNotRemoved(snapshot=name[:100], vm="a VM", reason="this plugin makes no such thing")
        try:
            remove(name)
        except NotThere:
            pass  # gone already
        except (ServerRefused, ConnectionError) as error:
            raise SnapshotNotRemoved(snapshot=name, vm="a VM", reason=str(error)) from error

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        if not _VM_NAME.fullmatch(name):
            raise UsageError(reason="a VM's name is made of letters, digits, '.', '_' and '-'")
        if self._named(name) and not overwrite:
            raise AlreadyExists(kind="VM", name=name)
        with self._translated():
            vm_id = self.server.new_name()
            self._promise(journal, HIDDEN_VM, vm_id)
            made = self.server.create(vm_id, name, {disk.disk_id: disk.size_bytes for disk in info.disks})
        disks = (
            RestoreDisk(
                disk.disk_id, disk.name, disk.size_bytes, str(file_url(str(made.disks[disk.disk_id].path))), False
            )
            for disk in info.disks
        )
        # Which VM it replaces is looked up at the end: it may be another by then.
        return RestoreTarget(f"{vm_id} {'replaces' if overwrite else 'is-new'}", VmRef(vm_id, name), tuple(disks))

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        replaced = self._named(target.vm.name) if target.target_id.endswith("replaces") else ""
        if replaced:
            self._promise(journal, HIDDEN_VM, replaced)  # refused by the server as long as it is listed
        try:
            with self._translated(target.vm):
                self.server.show(target.vm.vm_id, instead_of=replaced)
        except PlatformError:
            if self._named(target.vm.name):
                raise AlreadyExists(kind="VM", name=target.vm.name) from None
            raise
        self._strike(journal, target.vm.vm_id)
        if replaced:
            self.fulfil(HIDDEN_VM, {"name": replaced})
            self._strike(journal, replaced)
        return target.vm

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        self.fulfil(HIDDEN_VM, {"name": target.vm.vm_id})
        self._strike(journal, target.vm.vm_id)

    def _delete_hidden(self, vm_id: str) -> None:
        """What is listed is somebody's VM by now, and no business of an obligation."""
        if not self.server.describe(vm_id).hidden:
            raise NotThere("it is a VM now")
        self.server.delete(vm_id)

    def _named(self, name: str) -> str:
        with self._translated():
            return next((vm_id for vm_id, other in self.server.names().items() if other == name), "")

    def _promise(self, journal: Journal, kind: str, name: str) -> None:
        number = journal.promise(kind, {"name": name})
        with self._lock:
            self._promises[name] = number

    def _strike(self, journal: Journal, name: str) -> None:
        with self._lock:
            number = self._promises.pop(name, None)
        if number is not None:
            journal.strike(number)

    @contextmanager
    def _failing(self, vm: VmRef) -> Iterator[None]:
        """Whatever the server made before it failed stands in the journal."""
        try:
            yield
        except (ServerRefused, ConnectionError) as error:
            raise SnapshotFailed(vm=vm.name, reason=str(error)) from error

    @contextmanager
    def _translated(self, vm: VmRef | None = None) -> Iterator[None]:
        try:
            yield
        except NotThere as error:
            raise VmNotFound(vm=vm.name if vm else "?", server="the fake server") from error
        except (ServerRefused, ConnectionError) as error:
            raise HypervisorUnreachable(server="the fake server", reason=str(error)) from error


class FakeTracker:
    """A ``ChangeTracker`` over the server's log of writes."""

    def __init__(self, driver: FakeDriver) -> None:
        self._server = driver.server

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent]:
        tick = since.removeprefix("tick-")
        if not tick.isdecimal() or len(tick) > 12:
            raise ChangeTrackingLost(reason=f"{since!r} is no change id of this server")
        try:
            return self._server.changes(snapshot.snapshot_id, disk_id, int(tick))
        except (ServerRefused, ConnectionError) as error:
            raise ChangeTrackingLost(reason=str(error)) from error

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        """The log begins with empty disks."""
        try:
            return self._server.changes(snapshot.snapshot_id, disk_id, 0)
        except (ServerRefused, ConnectionError):
            return None


def _url(path: Path) -> str:
    return str(file_url(str(path)))


def holdfast_register_hypervisors(registry: Registry) -> None:
    def make(options: FakeOptions, secret: Mapping[str, str]) -> HypervisorDriver:
        raise UsageError(reason="the fake hypervisor is for tests: make a FakeDriver with a FakeServer")

    registry.hypervisor("fake", make, summary="a hypervisor for tests", options_type=FakeOptions)


def holdfast_register_change_trackers(registry: Registry) -> None:
    registry.change_tracker("fake", FakeTracker, summary="the fake server's log", hypervisor="fake")  # type: ignore[arg-type] # of its own driver only
