"""The virtual disks of a VM or of a snapshot, as its hardware lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from holdfast_agent.errors import DiskUnsupported

_CONTROLLERS = (
    ("VirtualSCSIController", "scsi"),
    ("VirtualSATAController", "sata"),
    ("VirtualNVMEController", "nvme"),
    ("VirtualIDEController", "ide"),
)
_FILE_NAME = re.compile(r"\[([^\[\]/\0]{1,255})\] ?([^\0]{1,4096})")
_LONGEST_NUMBER = 10
_ADVICE = 'Leave it out by skip = ["VM/DISK"] in the options of the server'


class Disk(msgspec.Struct, frozen=True):
    """``disk_id``: controller, bus and unit, such as "scsi0:1": a guest's view, which survives that disks come and go.

    ``file``: the descriptor's path in ``datastore``. ``uuid``: the disk's own, which another one in its place does not
    have. ``change_id``: of changed-block tracking, in the configuration of a snapshot. ``parent``: whether ``file`` is
    a delta over another one.
    """

    disk_id: str
    key: int
    label: str
    size_bytes: int
    datastore: str
    file: str
    uuid: str
    change_id: str
    parent: bool


def disks_of(
    vim: Any, devices: Iterable[Any], skips: Callable[[str], bool] = lambda _: False, *, refuse: bool = True
) -> tuple[Disk, ...]:
    """All disks but those left out, by ``disk_id``.

    Raises :class:`DiskUnsupported` for one that no snapshot freezes, unless it is left out; without ``refuse`` such
    disks are left out by themselves.
    """
    every = list(devices)
    controllers = {device.key: device for device in every if isinstance(device, vim.vm.device.VirtualController)}
    found = []
    for device in every:
        if not isinstance(device, vim.vm.device.VirtualDisk):
            continue
        disk_id = _disk_id(vim, controllers.get(device.controllerKey), device)
        if skips(disk_id):
            continue
        if reason := _reason_against(device.backing):
            if not refuse:
                continue
            raise DiskUnsupported(disk=disk_id, reason=reason, advice=_ADVICE)
        found.append(_disk(disk_id, device))
    return tuple(sorted(found, key=lambda disk: _by_number(disk.disk_id)))


def datastore_and_path(name: str) -> tuple[str, str]:
    """The parts of "[datastore] path/file". Raises ``ValueError``."""
    match = _FILE_NAME.fullmatch(name)
    if match is None or ".." in match[2].split("/"):
        raise ValueError(f"{name[:100]!r} is not a path in a datastore")
    return match[1], match[2]


def _by_number(disk_id: str) -> tuple[str, ...]:
    """So that "scsi0:2" comes before "scsi0:10", also where a plain VM gets the disks in this order."""
    return tuple(part.zfill(_LONGEST_NUMBER) if part.isdigit() else part for part in re.split(r"(\d+)", disk_id))


def _disk(disk_id: str, device: Any) -> Disk:
    backing = device.backing
    try:
        datastore, path = datastore_and_path(str(backing.fileName))
    except ValueError as error:
        raise DiskUnsupported(disk=disk_id, reason=str(error), advice=_ADVICE) from error
    return Disk(
        disk_id,
        int(device.key),
        str(device.deviceInfo.label)[:200] if device.deviceInfo else disk_id,
        int(device.capacityInBytes or device.capacityInKB * 1024),
        datastore,
        path,
        str(backing.uuid or ""),
        str(getattr(backing, "changeId", "") or ""),
        getattr(backing, "parent", None) is not None,
    )


def _disk_id(vim: Any, controller: Any, device: Any) -> str:
    for kind, name in _CONTROLLERS:
        if isinstance(controller, getattr(vim.vm.device, kind)):
            return f"{name}{controller.busNumber}:{device.unitNumber}"
    return f"disk{device.key}"


def _reason_against(backing: Any) -> str:
    mode = str(getattr(backing, "diskMode", "") or "")
    if mode.startswith("independent"):
        return f"it is {mode.replace('_', ' ')}, and so takes no part in snapshots"
    if str(getattr(backing, "compatibilityMode", "") or "") == "physicalMode":
        return "it is a raw device in physical mode, which takes no part in snapshots"
    if str(getattr(backing, "sharing", "") or "") == "sharingMultiWriter":
        return "several VMs write to it, so that it cannot be frozen"
    return "" if getattr(backing, "fileName", "") else "it has no file behind it"
