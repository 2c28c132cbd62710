"""The server: VMs with raw disks in a directory, snapshots by copying, and a log of what was written.

It stands for the far side of a hypervisor's interface: drivers reach it by its calls only, tests look into it freely.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_agent.model.geometry import Extent

from .faults import Faults


class ServerRefused(Exception):
    """The server's own error, in its own words; drivers translate it."""


class NotThere(ServerRefused):
    """There is no such thing."""


@dataclass
class FakeDisk:
    """``written``: every write with the number of the server's clock at which it happened."""

    path: Path
    written: list[tuple[int, Extent]] = field(default_factory=list)


@dataclass
class FakeVm:
    """A VM; one that is ``hidden`` is being made, and is not listed."""

    name: str
    disks: dict[str, FakeDisk]
    hidden: bool = False
    running: bool = False


@dataclass
class FakeSnapshot:
    """Frozen copies of a VM's disks, and the tick of the clock at which they were made."""

    vm_id: str
    tag: str
    disks: dict[str, Path]
    tick: int


class FakeServer:
    """Calls are atomic and thread-safe. ``faults``: what goes wrong next; ``online``: whether it answers at all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults = Faults()
        self.online = True
        self.vms: dict[str, FakeVm] = {}
        self.snapshots: dict[str, FakeSnapshot] = {}
        self._ids = 0
        self._tick = 0
        self._lock = threading.RLock()

    # For tests: the far side

    def add_vm(self, name: str, disks: dict[str, int]) -> str:
        """A VM with empty disks of so many bytes; returns its id."""
        with self._lock:
            vm_id = self._new_id("vm")
            self.vms[vm_id] = FakeVm(name, {})
            for disk_id, size_bytes in disks.items():
                self.add_disk(vm_id, disk_id, size_bytes)
            return vm_id

    def add_disk(self, vm_id: str, disk_id: str, size_bytes: int) -> None:
        with self._lock:
            path = self.directory / f"{vm_id}-{disk_id}.raw"
            with path.open("xb") as file:
                file.truncate(size_bytes)
            self.vms[vm_id].disks[disk_id] = FakeDisk(path)

    def remove_disk(self, vm_id: str, disk_id: str) -> None:
        with self._lock:
            self.vms[vm_id].disks.pop(disk_id).path.unlink()

    def write(self, vm_id: str, disk_id: str, offset: int, data: bytes) -> None:
        """As the guest does."""
        with self._lock:
            disk = self.vms[vm_id].disks[disk_id]
            with disk.path.open("r+b") as file:
                file.seek(offset)
                file.write(data)
            disk.written.append((self._tick, Extent(offset, len(data))))

    def forget_changes(self) -> None:
        """The log of writes is lost, as by a power cut."""
        with self._lock:
            self._tick += 1_000_000

    def traces(self) -> frozenset[tuple[str, ...]]:
        """All that exists."""
        with self._lock:
            files = {("file", path.name) for path in self.directory.iterdir()}
            vms = {("vm", vm_id, vm.name, *vm.disks) for vm_id, vm in self.vms.items()}
            return frozenset(files | vms | {("snapshot", name) for name in self.snapshots})

    # For drivers: the interface

    def ping(self) -> None:
        with self._call("ping"):
            pass

    def names(self) -> dict[str, str]:
        """Names by id."""
        with self._call("names"):
            return {vm_id: vm.name for vm_id, vm in self.vms.items() if not vm.hidden}

    def describe(self, vm_id: str) -> FakeVm:
        with self._call("describe"):
            return self._vm(vm_id)

    def new_name(self) -> str:
        """A name for a snapshot or a VM that nobody has."""
        with self._call("new_name"):
            return self._new_id("new")

    def snapshot(self, name: str, vm_id: str, disk_ids: tuple[str, ...], tag: str) -> FakeSnapshot:
        with self._call("snapshot"):
            vm = self._vm(vm_id)
            missing = [disk_id for disk_id in disk_ids if disk_id not in vm.disks]
            if missing:
                raise NotThere(f"{vm.name} has no disk {missing[0]}")
            self._tick += 1
            copies = {disk_id: self.directory / f"{name}-{disk_id}.frozen" for disk_id in disk_ids}
            for disk_id, copy in copies.items():
                shutil.copyfile(vm.disks[disk_id].path, copy)
            self.snapshots[name] = FakeSnapshot(vm_id, tag, copies, self._tick)
            return self.snapshots[name]

    def remove_snapshot(self, name: str) -> None:
        with self._call("remove_snapshot"):
            if name not in self.snapshots:
                raise NotThere(f"there is no snapshot {name}")
            for copy in self.snapshots.pop(name).disks.values():
                copy.unlink()

    def changes(self, name: str, disk_id: str, since: int) -> list[Extent]:
        """What was written between two ticks of the clock, as far as the server knows."""
        with self._call("changes"):
            snapshot = self.snapshots.get(name)
            if snapshot is None:
                raise NotThere(f"there is no snapshot {name}")
            if not snapshot.tick - 1_000_000 < since < snapshot.tick:
                raise ServerRefused("the log of writes does not reach back that far")
            written = self._vm(snapshot.vm_id).disks[disk_id].written
            return sorted(extent for tick, extent in written if since <= tick < snapshot.tick)

    def create(self, vm_id: str, name: str, disks: dict[str, int]) -> FakeVm:
        """A hidden VM with empty disks."""
        with self._call("create"):
            if vm_id in self.vms:
                raise ServerRefused(f"there is a VM {vm_id} already")
            self.vms[vm_id] = FakeVm(name, {}, hidden=True)
            for disk_id, size_bytes in disks.items():
                self.add_disk(vm_id, disk_id, size_bytes)
            return self.vms[vm_id]

    def show(self, vm_id: str, instead_of: str = "") -> None:
        """List a hidden VM under its name; the VM ``instead_of`` becomes hidden in the same instant."""
        with self._call("show"):
            vm = self._vm(vm_id)
            listed = {other.name for key, other in self.vms.items() if not other.hidden and key != instead_of}
            if vm.name in listed:
                raise ServerRefused(f"the name {vm.name} is taken")
            vm.hidden = False
            if instead_of in self.vms:
                self.vms[instead_of].hidden = True

    def delete(self, vm_id: str) -> None:
        """A hidden VM and its disks; one that is listed is refused."""
        with self._call("delete"):
            vm = self._vm(vm_id)
            if not vm.hidden:
                raise ServerRefused(f"the VM {vm.name} is in use")
            for disk in self.vms.pop(vm_id).disks.values():
                disk.path.unlink()

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        fault = self.faults.next(name)
        if not fault.after:
            fault.strike()
        with self._lock:
            if not self.online:
                raise ConnectionError("the server does not answer")
            yield
        if fault.after:
            fault.strike()

    def _vm(self, vm_id: str) -> FakeVm:
        try:
            return self.vms[vm_id]
        except KeyError:
            raise NotThere(f"there is no VM {vm_id}") from None

    def _new_id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}-{self._ids}"
