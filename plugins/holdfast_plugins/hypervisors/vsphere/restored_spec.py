"""The configuration of a restored VM: that of the point with its new disks, or a plain one for a VM of another kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

log = logging.getLogger(__name__)

_SAME = (
    "guestId", "version", "alternateGuestName", "annotation", "firmware", "bootOptions", "cpuHotAddEnabled",
    "cpuHotRemoveEnabled", "memoryHotAddEnabled", "cpuAllocation", "memoryAllocation", "latencySensitivity",
    "nestedHVEnabled", "vPMCEnabled", "swapPlacement",
)  # fmt: skip
_OF_THE_OLD_PLACE = ("govcsim", "migrate.", "nvram", "sched.swap.", "vmotion.", "vmware.tools.")
"""Beginnings of keys of the extra configuration that hosts set for themselves."""
_CONTROLLERS = ("VirtualSCSIController", "VirtualSATAController", "VirtualNVMEController")
_OTHER_CPUS, _OTHER_MEMORY_MB, _UNITS = 2, 2048, 15


class NewDisk(msgspec.Struct, frozen=True):
    """A disk that is written. ``key``: of the device that it was, 0 for none; ``file``: "[datastore] path"."""

    key: int
    file: str
    size_bytes: int


class NewIdentity(msgspec.Struct, frozen=True):
    """``instance``, ``bios``: UUIDs, "" for new ones. ``own``: MAC addresses stay as they were."""

    name: str
    instance: str = ""
    bios: str = ""
    own: bool = True


Backing = Callable[[str], Any]
"""For the name that a network had what connects a card to the one in its place, None to leave the card out."""


def restored(vim: Any, config: Any, networks: Mapping[str, str], identity: NewIdentity, backing: Backing) -> Any:
    """The specification without files and disks. ``networks``: names by the keys that the configuration has."""
    spec = vim.vm.ConfigSpec(
        name=identity.name,
        numCPUs=config.hardware.numCPU,
        numCoresPerSocket=config.hardware.numCoresPerSocket,
        memoryMB=config.hardware.memoryMB,
        **{name: getattr(config, name) for name in _SAME if getattr(config, name, None) is not None},
    )
    if identity.instance:
        spec.instanceUuid = identity.instance
    if identity.bios:
        spec.uuid = identity.bios
    spec.extraConfig = [
        vim.option.OptionValue(key=each.key, value=each.value)
        for each in config.extraConfig or ()
        if not each.key.startswith(_OF_THE_OLD_PLACE)
    ]
    spec.deviceChange = [
        _added(vim, device)
        for device in (_again(vim, each, networks, identity, backing) for each in config.hardware.device)
        if device is not None
    ]
    return spec


def plain(vim: Any, name: str) -> Any:
    """Likewise for disks that another kind of hypervisor had: what most systems boot from without a driver more."""
    controller = vim.vm.device.VirtualLsiLogicSASController(
        key=-1, busNumber=0, sharedBus=vim.vm.device.VirtualSCSIController.Sharing.noSharing
    )
    return vim.vm.ConfigSpec(
        name=name, guestId="otherGuest64", numCPUs=_OTHER_CPUS, memoryMB=_OTHER_MEMORY_MB,
        deviceChange=[_added(vim, controller)],
    )  # fmt: skip


def with_disks(vim: Any, spec: Any, vmx: str, disks: Sequence[NewDisk], config: Any) -> Any:
    """``spec`` with where the VM lies, and its disks in the places that they had. ``config``: of the point, or None."""
    spec.files = vim.vm.FileInfo(vmPathName=vmx)
    were = {} if config is None else {device.key: device for device in config.hardware.device}
    free = iter(unit for unit in range(64) if unit % 16 != 7)  # unit 7 is the controller's own
    for number, disk in enumerate(disks):
        was = were.get(disk.key)
        controller, unit = (-1, next(free)) if was is None else (_new_key(was.controllerKey), was.unitNumber)
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=disk.file, diskMode="persistent", thinProvisioned=True
        )
        device = vim.vm.device.VirtualDisk(
            key=-100 - number, controllerKey=controller, unitNumber=unit, backing=backing,
            capacityInKB=disk.size_bytes >> 10, capacityInBytes=disk.size_bytes,
        )  # fmt: skip
        spec.deviceChange.append(_added(vim, device))
    return spec


def _again(vim: Any, device: Any, networks: Mapping[str, str], identity: NewIdentity, backing: Backing) -> Any:
    """A device of the point as it is added to the new VM; None for what every VM has, or what cannot be had again."""
    kinds = vim.vm.device
    if any(isinstance(device, getattr(kinds, each)) for each in _CONTROLLERS):
        device.key, device.device = _new_key(device.key), []
        device.deviceInfo = device.slotInfo = None
        return device
    if isinstance(device, kinds.VirtualEthernetCard):
        return _card(device, networks, identity, backing)
    if isinstance(device, kinds.VirtualCdrom):
        device.controllerKey, device.key = _new_key(device.controllerKey), -1000 - device.key
        device.backing = kinds.VirtualCdrom.RemotePassthroughBackingInfo(deviceName="", exclusive=False)
        device.connectable = kinds.VirtualDevice.ConnectInfo(
            startConnected=False, allowGuestControl=True, connected=False
        )
        device.deviceInfo = None
        return device
    if not isinstance(device, (kinds.VirtualDisk, *_of_every_vm(kinds))):
        log.warning("%s is not restored: %s", type(device).__name__, getattr(device.deviceInfo, "label", ""))
    return None


def _card(device: Any, networks: Mapping[str, str], identity: NewIdentity, backing: Backing) -> Any:
    connected = backing(networks.get(_network_key(device.backing), ""))
    if connected is None:
        return None
    device.key, device.backing = -1000 - device.key, connected
    device.controllerKey = device.unitNumber = device.deviceInfo = device.slotInfo = None
    if device.connectable is not None:
        device.connectable.status = None
    if not identity.own:
        device.addressType, device.macAddress = "generated", None
    return device


def _network_key(backing: Any) -> str:
    """By which a configuration names a network: its object id."""
    if getattr(backing, "network", None) is not None:
        return str(backing.network._GetMoId())
    return str(getattr(getattr(backing, "port", None), "portgroupKey", "") or "")


def _new_key(key: int) -> int:
    """For a controller that is made anew; those of IDE are there in every VM, under keys of their own."""
    return key if 200 <= key < 300 else -key


def _of_every_vm(kinds: Any) -> tuple[Any, ...]:
    return (
        kinds.VirtualController, kinds.VirtualKeyboard, kinds.VirtualPointingDevice, kinds.VirtualVideoCard,
        kinds.VirtualVMCIDevice,
    )  # fmt: skip


def _added(vim: Any, device: Any) -> Any:
    kinds = vim.vm.device.VirtualDeviceSpec
    return kinds(operation=kinds.Operation.add, device=device)
