"""Backups over vSphere by the plugin's driver alone, without a session, each compared with the truth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast_agent.disks.open import open_disk
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_plugins.hypervisors.vsphere import VsphereDriver, VsphereOptions
from lab.disks import host_for
from lab.vcenter import LabVm, VCenter


def options_of(center: VCenter, **others: Any) -> VsphereOptions:
    """Short times, for nothing is slow here, and no demands on the room of a test machine."""
    table = {"host": center.host, "port": center.port, "certificate_sha256": center.certificates.fingerprint}
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


def instance_uuid(center: VCenter, vm: LabVm) -> str:
    """By which the plugin knows a VM, as pyvmomi tells it."""
    from pyVmomi import vim

    service = center.connect()
    try:
        return str(vim.VirtualMachine(vm.vm_id, service._stub).config.instanceUuid)
    finally:
        service.content.sessionManager.Logout()
        service._stub.DropConnections()


def read_url(center: VCenter, url: str, folder: Path) -> bytes:
    """A disk as a proxy reads it that may reach the server, and has its password in the place of a session's cookie."""
    pin = center.certificates.fingerprint
    access = DiskAccess(origin=center.origin, user=center.user, password=center.password, certificate_sha256=pin)
    disk = open_disk(url, host_for(folder, center.origin), (access,))
    try:
        buffer = bytearray(disk.size_bytes)
        disk.read_into(0, memoryview(buffer))
        return bytes(buffer)
    finally:
        disk.close()
