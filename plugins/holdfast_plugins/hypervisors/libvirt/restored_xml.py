"""The domain XML of a restored VM: the one that was backed up, with its new disks and, where wanted, a new identity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import msgspec

from .definition import disk_elements, parse, target_of, unparse

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TARGET = re.compile(r"[a-z]{1,8}[0-9a-z]{0,8}", re.ASCII)
_DESCRIBES_OLD = ("backingStore", "mirror", "source", "auth", "encryption", "transient")


class NewDisk(msgspec.Struct, frozen=True):
    """Where a restored disk lies. ``disk_id``: as the backup called it."""

    disk_id: str
    path: str
    format: str


class NewIdentity(msgspec.Struct, frozen=True):
    """``uuid``: empty lets libvirt choose one. ``own``: MAC addresses and the generation id stay as they were."""

    name: str
    uuid: str = ""
    own: bool = True


def restored(xml: str, identity: NewIdentity, disks: Sequence[NewDisk], firmware: Path | None) -> str:
    """The XML to define. Disks of the original that are not among ``disks`` are left out; drives become empty.

    ``firmware``: the file with the firmware's variables, where there is one. Raises ``ValueError`` for no XML.
    """
    root = parse(xml)
    root.attrib.pop("id", None)
    _set_identity(root, identity)
    _place_firmware(root, firmware, identity.own)
    devices = root.find("devices")
    if devices is None:
        devices = SubElement(root, "devices")
    left = {disk.disk_id: disk for disk in disks}
    for element in list(disk_elements(root)):
        disk = left.pop(target_of(element), None)
        if disk is None:
            devices.remove(element)
        else:
            _point_to(element, disk)
    for element in devices.iterfind("disk"):
        if element.get("device") in ("cdrom", "floppy"):
            _forget(element, ("backingStore", "source"))
    _add_disks(devices, list(left.values()))
    return unparse(root)


def plain(name: str, kind: str, disks: Sequence[NewDisk]) -> str:
    """A simple VM for disks that another kind of hypervisor had. ``kind``: "kvm" or "qemu"."""
    root = Element("domain", type=kind)
    SubElement(root, "name").text = name
    SubElement(root, "memory", unit="GiB").text = "2"
    SubElement(root, "vcpu").text = "2"
    system = SubElement(root, "os")
    SubElement(system, "type", machine="q35").text = "hvm"
    features = SubElement(root, "features")
    SubElement(features, "acpi")
    devices = SubElement(root, "devices")
    _add_disks(devices, disks)
    SubElement(devices, "console", type="pty")
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    return unparse(root)


def _set_identity(root: Element, identity: NewIdentity) -> None:
    for tag, value in (("name", identity.name), ("uuid", identity.uuid)):
        found = root.find(tag)
        if value and found is None:
            found = SubElement(root, tag)
        if found is not None and value:
            found.text = value
        elif found is not None:
            root.remove(found)
    for system in root.iterfind("./sysinfo/system"):  # where it is given it must be the same
        for entry in system.findall("entry[@name='uuid']"):
            entry.text = identity.uuid
            if not identity.uuid:
                system.remove(entry)
    if identity.own:
        return
    for interface in root.iterfind("./devices/interface"):
        _forget(interface, ("mac",))
    for generation in root.findall("genid"):
        generation.text = None


def _place_firmware(root: Element, firmware: Path | None, own: bool) -> None:
    variables = root.find("./os/nvram")
    if variables is None:
        return
    if firmware is not None:
        variables.text = str(firmware)
    elif not own:
        variables.text = None  # libvirt makes new ones from the firmware's template


def _point_to(element: Element, disk: NewDisk) -> None:
    _forget(element, _DESCRIBES_OLD)
    element.set("type", "file")
    element.set("device", "disk")
    for attribute in ("sgio", "rawio", "snapshot"):
        element.attrib.pop(attribute, None)
    driver = element.find("driver")
    if driver is None:
        driver = SubElement(element, "driver", name="qemu")
    driver.set("type", disk.format)
    SubElement(element, "source", file=disk.path)


def _add_disks(devices: Element, disks: Sequence[NewDisk]) -> None:
    """Disks that the definition does not have, at free targets of virtio."""
    taken = {target_of(element) for element in devices.iterfind("disk")}
    for disk in disks:
        target = disk.disk_id if _is_virtio(disk.disk_id, taken) else _free_target(taken)
        taken.add(target)
        element = SubElement(devices, "disk", type="file", device="disk")
        SubElement(element, "driver", name="qemu", type=disk.format, discard="unmap")
        SubElement(element, "source", file=disk.path)
        SubElement(element, "target", dev=target, bus="virtio")


def _is_virtio(target: str, taken: set[str]) -> bool:
    return target.startswith("vd") and bool(_TARGET.fullmatch(target)) and target not in taken


def _free_target(taken: set[str]) -> str:
    names = [f"vd{letter}" for letter in _LETTERS]
    names += [f"vd{first}{second}" for first in _LETTERS for second in _LETTERS]
    return next(name for name in names if name not in taken)


def _forget(element: Element, tags: Sequence[str]) -> None:
    for tag in tags:
        for found in element.findall(tag):
            element.remove(found)
