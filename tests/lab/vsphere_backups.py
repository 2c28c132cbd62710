"""Backups over vSphere by the plugin's driver alone, without a session, each compared with the truth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_plugins.hypervisors.vsphere import VsphereDriver, VsphereOptions
from lab.disks import host_for
from lab.vcenter import LabVm, VCenter


def options_of(center: VCenter, **others: Any) -> VsphereOptions:
    """Short times, for nothing is slow here, and no demands on the room of a test machine."""
    table: dict[str, Any] = {
        "host": center.host,
        "port": center.port,
        "certificate_sha256": center.certificates.fingerprint,
    }
    return VsphereOptions(**table | {"timeout": 20, "task_timeout": 30, "min_free_gib": 0} | others)


def secret_of(center: VCenter) -> dict[str, str]:
    return {"user": center.user, "password": center.password}


@contextlib.contextmanager
def connected(center: VCenter, **others: Any) -> Iterator[VsphereDriver]:
    driver = VsphereDriver(options_of(center, **others), secret_of(center))
    driver.connect()
    try:
        yield driver
    finally:
        driver.close()


@contextlib.contextmanager
def service_of(center: VCenter) -> Iterator[Any]:
    """Somebody else's session with the server: a ServiceInstance of pyvmomi's."""
    service = center.connect()
    try:
        yield service
    finally:
        service.content.sessionManager.Logout()
        service._stub.DropConnections()


def run_task(task: Any) -> None:
    """Wait for a task that somebody else has begun."""
    while str(task.info.state) in ("queued", "running"):
        time.sleep(0.01)
    if task.info.error is not None:
        raise task.info.error


def machine_of(service: Any, vm: LabVm) -> Any:
    from pyVmomi import vim

    return vim.VirtualMachine(vm.vm_id, service._stub)


def reconfigured(center: VCenter, vm: LabVm, extra: dict[str, str]) -> None:
    """Set keys of a VM's extra configuration; "SET.…" is the simulator's way to set any property."""
    from pyVmomi import vim

    values = [vim.option.OptionValue(key=key, value=value) for key, value in extra.items()]
    with service_of(center) as service:
        run_task(machine_of(service, vm).ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=values)))


def grown(center: VCenter, vm: LabVm, disk: int, size_bytes: int) -> None:
    """Make a disk larger."""
    from pyVmomi import vim

    with service_of(center) as service:
        machine = machine_of(service, vm)
        device = next(each for each in machine.config.hardware.device if each.key == vm.disks[disk])
        device.capacityInKB, device.capacityInBytes = size_bytes >> 10, size_bytes
        change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=device)
        run_task(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


def plugged(center: VCenter, vm: LabVm, size_bytes: int) -> int:
    """Give a VM another disk, at the first IDE controller; returns its key."""
    from pyVmomi import vim

    kinds = vim.vm.device
    backing = kinds.VirtualDisk.FlatVer2BackingInfo(fileName="[LocalDS_0]", diskMode="persistent", thinProvisioned=True)
    disk = kinds.VirtualDisk(key=-1, controllerKey=200, unitNumber=1, backing=backing)
    disk.capacityInKB, disk.capacityInBytes = size_bytes >> 10, size_bytes
    change = kinds.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk)
    with service_of(center) as service:
        machine = machine_of(service, vm)
        run_task(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
        disks = [each.key for each in machine.config.hardware.device if isinstance(each, kinds.VirtualDisk)]
        return int(next(key for key in disks if key not in vm.disks))


def unplugged(center: VCenter, vm: LabVm, key: int) -> None:
    """Take it away again, with its files."""
    from pyVmomi import vim

    with service_of(center) as service:
        machine = machine_of(service, vm)
        device = next(each for each in machine.config.hardware.device if each.key == key)
        change = vim.vm.device.VirtualDeviceSpec(operation="remove", fileOperation="destroy", device=device)
        run_task(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


def instance_uuid(center: VCenter, vm: LabVm) -> str:
    """By which the plugin knows a VM, as pyvmomi tells it."""
    with service_of(center) as service:
        return str(machine_of(service, vm).config.instanceUuid)


def machines_named(service: Any, name: str) -> list[Any]:
    """The managed objects of VMs, by whomever they were made."""
    from pyVmomi import vim

    content = service.RetrieveContent()
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    return [each for each in view.view if each.name == name]


def named(center: VCenter, name: str) -> LabVm:
    """A VM that the lab has not made."""
    from pyVmomi import vim

    with service_of(center) as service:
        machine = machines_named(service, name)[0]
        disks = [each.key for each in machine.config.hardware.device if isinstance(each, vim.vm.device.VirtualDisk)]
        return LabVm(name, machine._GetMoId(), tuple(disks))


def destroy_named(center: VCenter, name: str) -> None:
    """Destroy VMs, off or on."""
    with service_of(center) as service:
        for found in machines_named(service, name):
            if str(found.runtime.powerState) != "poweredOff":
                run_task(found.PowerOffVM_Task())
            run_task(found.Destroy_Task())


def datastore_files(center: VCenter) -> frozenset[str]:
    """All files and folders on all datastores: the simulator's are folders of this machine."""
    root = center._control.parent
    return frozenset(str(path) for path in root.rglob("*") if "govcsim" in str(path.relative_to(root)))


def access_to(center: VCenter) -> tuple[DiskAccess, ...]:
    """The password in the place of a session's cookie."""
    pin = center.certificates.fingerprint
    return (DiskAccess(origin=center.origin, user=center.user, password=center.password, certificate_sha256=pin),)


def read_url(center: VCenter, url: str, folder: Path) -> bytes:
    """A disk as a proxy reads it that may reach the server."""
    disk = open_disk(url, host_for(folder, center.origin), access_to(center))
    try:
        buffer = bytearray(disk.size_bytes)
        disk.read_into(0, memoryview(buffer))
        return bytes(buffer)
    finally:
        disk.close()


def write_url(center: VCenter, url: str, data: bytes, folder: Path, *, create: bool) -> None:
    """A disk as a proxy restores it."""
    host = host_for(folder, center.origin)
    target = open_target(url, host, len(data), create=create, overwrite=False, granted=access_to(center))
    target.write(0, data)
    target.finish()
