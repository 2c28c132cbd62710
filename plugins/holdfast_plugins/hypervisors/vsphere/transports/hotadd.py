"""Attaching a disk to the VM of a proxy, which then has it as a device of its own.

A disk that is attached keeps its file open, so that its snapshot cannot be merged: it is detached before the snapshot
is removed. One to be read is attached as ``independent_nonpersistent`` (Virtual Disk Programming Guide, "HotAdd"):
nothing that the proxy might write reaches the file. One to be written is ``independent_persistent``, and its own VM, as
long as it is off, cannot be started.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeVar

import msgspec

from holdfast_agent.errors import SnapshotNotRemoved, VmNotFound
from holdfast_plugins.api import Journal, VmRef

from ..binding import VsphereRefused
from ..connection import Connection
from ..inventory import Inventory
from ..machine import without_reconfiguration
from ..properties import properties_of
from ..tasks import finished

log = logging.getLogger(__name__)

HOTADD = "vsphere-hotadd"
"""Obligation to detach a disk from a proxy's VM. ``data``: see :class:`Attached`."""
_NAMED = "disk.EnableUUID"
_Mode = Literal["independent_nonpersistent", "independent_persistent"]
_READ: Final = "independent_nonpersistent"
_WRITTEN: Final = "independent_persistent"
_UNITS = [unit for unit in range(16) if unit != 7]  # 7 is the controller's own
_BUSY = ("TaskInProgress", "ConcurrentAccess")
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
_T = TypeVar("_T")


class Attached(msgspec.Struct, frozen=True):
    """``proxy`` and ``proxy_name``: the VM that has the disk; ``file``: "[datastore] path" of what is attached.

    ``mode``: of the disk, which no disk of the proxy's own has with that file.
    """

    proxy: str
    proxy_name: str
    file: str
    mode: _Mode = _READ

    def data(self) -> dict[str, str]:
        return msgspec.structs.asdict(self)


class HotAdd:
    """Thread-safe."""

    def __init__(self, connection: Connection, inventory: Inventory, task_timeout_s: float) -> None:
        self._connection = connection
        self._inventory = inventory
        self._task_timeout_s = task_timeout_s
        self._lock = threading.Lock()
        self._attached: defaultdict[str, list[tuple[Attached, int, Journal]]] = defaultdict(list)
        self._proxies: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def attach(
        self, holder: str, file: str, uuid: str, proxy: str, journal: Journal, *, writable: bool = False
    ) -> None:
        """Attach a disk to the VM called ``proxy``, or with that id; if it is not yet.

        ``holder``: the snapshot that froze the disk, or the restore that writes it: what it is released by.
        Raises :class:`VsphereRefused`, ``VmNotFound``, ``HypervisorUnreachable``; nothing is attached then.
        """
        vm = self._proxy(proxy)
        mode: _Mode = _WRITTEN if writable else _READ
        with self._turn(vm):
            machine = self._inventory.find(vm)
            self._check_names_disks(machine, vm)
            devices = self._devices(machine)
            if any(_is(disk, file, mode) for disk in _disks(devices)):
                return
            self._check_alone(devices, uuid, vm)
            spec = self._added(devices, file, mode)
            attached = Attached(vm.vm_id, vm.name, file, mode)
            number = journal.promise(HOTADD, attached.data())
            with self._lock:
                self._attached[holder].append((attached, number, journal))
            try:
                self._reconfigure(machine, spec)
                self._check_alone([disk for disk in self._devices(machine) if not _is(disk, file, mode)], uuid, vm)
            except VsphereRefused:
                with suppress(VsphereRefused):  # it is promised, and tried again before the snapshot goes
                    self._detach(machine, attached)
                raise

    def release(self, holder: str) -> None:
        """Detach all disks of ``holder``. Idempotent. Raises as :meth:`attach`."""
        while True:
            with self._lock:
                waiting = self._attached.get(holder)
                if not waiting:
                    self._attached.pop(holder, None)
                    return
                attached, number, journal = waiting[-1]
            self._end(attached)
            journal.strike(number)
            with self._lock:
                self._attached[holder].remove((attached, number, journal))

    def fulfil(self, data: Mapping[str, str]) -> None:
        """Detach what a dead session left attached."""
        try:
            attached = msgspec.convert(dict(data), Attached)
        except msgspec.ValidationError as error:
            reason = "it is not of this plugin"
            raise SnapshotNotRemoved(snapshot=data.get("file", "?"), vm="a proxy", reason=reason) from error
        try:
            self._end(attached, settle=True)
        except VsphereRefused as error:
            raise SnapshotNotRemoved(snapshot=attached.file, vm=attached.proxy_name, reason=str(error)) from error

    def _end(self, attached: Attached, *, settle: bool = False) -> None:
        """``settle``: the server may still be attaching it, for a session that has died."""
        vm = VmRef(attached.proxy, attached.proxy_name)
        with self._turn(vm):
            try:
                machine = self._inventory.find(vm)
            except VmNotFound:
                log.warning("the proxy %s is not there any more, and what was attached to it with it", vm.name)
                return
            if settle:
                without_reconfiguration(
                    self._connection,
                    machine,
                    self._task_timeout_s,
                    lambda state: any(_is(disk, attached.file, attached.mode) for disk in _disks(state.devices)),
                )
            self._detach(machine, attached)

    def _turn(self, vm: VmRef) -> threading.Lock:
        """A VM is reconfigured by one at a time."""
        with self._lock:
            return self._proxies[vm.vm_id]

    def _proxy(self, name: str) -> VmRef:
        found = [vm for vm in self._inventory.list_vms() if name in (vm.name, vm.vm_id)]
        if len(found) != 1:
            raise VsphereRefused("NotFound", f"there are {len(found)} VMs called {name}, and the proxy must be one")
        return found[0]

    def _devices(self, machine: Any) -> list[Any]:
        return list(properties_of(self._connection, machine, ("config.hardware.device",))["config.hardware.device"])

    def _check_names_disks(self, machine: Any, vm: VmRef) -> None:
        """Without it the guest is not told the UUIDs of disks."""
        options = properties_of(self._connection, machine, ("config.extraConfig",)).get("config.extraConfig") or ()
        if not any(each.key == _NAMED and str(each.value).upper() == "TRUE" for each in options):
            raise VsphereRefused("InvalidState", f"{_NAMED} is not TRUE in the VM {vm.name}, which is to attach disks")

    def _check_alone(self, devices: list[Any], uuid: str, vm: VmRef) -> None:
        """The proxy knows disks by their UUIDs: of two with the same it might read the wrong one."""
        if not uuid:
            raise VsphereRefused("InvalidState", "the disk has no UUID by which a proxy could know it")
        if any(str(getattr(disk.backing, "uuid", "")).lower() == uuid.lower() for disk in _disks(devices)):
            raise VsphereRefused("ResourceInUse", f"{vm.name} has a disk with the same UUID {uuid} attached already")

    def _added(self, devices: list[Any], file: str, mode: str) -> Any:
        vim = self._connection.vim
        controller, unit = self._place(devices)
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode=mode)
        disk = vim.vm.device.VirtualDisk(key=-1, controllerKey=controller, unitNumber=unit, backing=backing)
        return vim.vm.device.VirtualDeviceSpec(operation="add", device=disk)

    def _place(self, devices: list[Any]) -> tuple[int, int]:
        """A free place on a SCSI controller: disks elsewhere cannot be attached to a running VM on all hosts."""
        kind = self._connection.vim.vm.device.VirtualSCSIController
        for controller in devices:
            if isinstance(controller, kind):
                taken = {each.unitNumber for each in devices if each.controllerKey == controller.key}
                free = next((unit for unit in _UNITS if unit not in taken), None)
                if free is not None:
                    return int(controller.key), free
        raise VsphereRefused("TooManyDevices", "the proxy has no free place on a SCSI controller")

    def _detach(self, machine: Any, attached: Attached) -> None:
        """Only what is attached as we do it, and never its file: without a fileOperation that stays."""
        for disk in _disks(self._devices(machine)):
            if _is(disk, attached.file, attached.mode):
                spec = self._connection.vim.vm.device.VirtualDeviceSpec(operation="remove", device=disk)
                self._reconfigure(machine, spec)

    def _reconfigure(self, machine: Any, change: Any) -> None:
        spec = self._connection.vim.vm.ConfigSpec(deviceChange=[change])

        def deed() -> None:
            task = self._connection.act(lambda _: machine.ReconfigVM_Task(spec))
            finished(self._connection, task, self._task_timeout_s)

        _patiently(deed)


def _patiently(deed: Callable[[], _T]) -> _T:
    """Somebody else may be reconfiguring the proxy just now."""
    for pause_s in _PAUSES_S:
        try:
            return deed()
        except VsphereRefused as error:
            if error.fault not in _BUSY:
                raise
        time.sleep(pause_s)
    return deed()


def _disks(devices: Iterable[Any]) -> Iterator[Any]:
    return (device for device in devices if hasattr(device, "capacityInKB") and hasattr(device.backing, "fileName"))


def _is(disk: Any, file: str, mode: str) -> bool:
    """Whether a disk is ``file`` as we attach it. A snapshot's file may have a redo log of the proxy's over it."""
    backing = getattr(disk, "backing", None)
    if str(getattr(backing, "diskMode", "")) != mode:
        return False
    while backing is not None:
        if str(getattr(backing, "fileName", "")) == file:
            return True
        backing = getattr(backing, "parent", None)
    return False
