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


_POLICIES = ("error_policy", "rerror_policy")
"""A guest whose disk cannot be reached is paused, and told nothing. (libvirt knows `reconnect` of NBD from 9.1 on.)"""


class NewDisk(msgspec.Struct, frozen=True):
    """Where a restored disk lies: in the file ``path``, or as the ``export`` of an NBD server at the socket ``path``.

    ``disk_id``: as the backup called it.
    """

    disk_id: str
    path: str
    format: str
    export: str = ""


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


def plain(name: str, kind: str, disks: Sequence[NewDisk], uuid: str = "") -> str:
    """A simple VM for disks that another kind of hypervisor had. ``kind``: "kvm" or "qemu". ``uuid``: "" for any."""
    root = Element("domain", type=kind)
    SubElement(root, "name").text = name
    if uuid:
        SubElement(root, "uuid").text = uuid
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
    if firmware is not None or not own:
        _forget(variables, ("source",))
        variables.attrib.pop("type", None)
    if firmware is not None:
        variables.text = str(firmware)
    elif not own:
        variables.text = None  # libvirt makes new ones from the firmware's template


def _point_to(element: Element, disk: NewDisk) -> None:
    _forget(element, _DESCRIBES_OLD)
    element.set("device", "disk")
    for attribute in ("sgio", "rawio", "snapshot"):
        element.attrib.pop(attribute, None)
    driver = element.find("driver")
    if driver is None:
        driver = SubElement(element, "driver", name="qemu")
    driver.set("type", disk.format)
    _set_source(element, driver, disk)


def point_disks(xml: str, disks: Sequence[NewDisk]) -> str:
    """The definition with these disks, by their targets, in the places of what they were."""
    root = parse(xml)
    new = {disk.disk_id: disk for disk in disks}
    for element in disk_elements(root):
        disk = new.get(target_of(element))
        if disk is not None:
            _point_to(element, disk)
    return unparse(root)


def _set_source(element: Element, driver: Element, disk: NewDisk) -> None:
    for attribute in _POLICIES if disk.export else ():
        driver.set(attribute, "stop")
    if not disk.export:
        element.set("type", "file")
        SubElement(element, "source", file=disk.path)
        return
    element.set("type", "network")
    for attribute in ("io", "iothread", "queues"):  # of files
        driver.attrib.pop(attribute, None)
    source = SubElement(element, "source", protocol="nbd", name=disk.export)
    SubElement(source, "host", transport="unix", socket=disk.path)


def _add_disks(devices: Element, disks: Sequence[NewDisk]) -> None:
    """Disks that the definition does not have, at free targets of virtio."""
    taken = {target_of(element) for element in devices.iterfind("disk")}
    for disk in disks:
        target = disk.disk_id if _is_virtio(disk.disk_id, taken) else _free_target(taken)
        taken.add(target)
        element = SubElement(devices, "disk", device="disk")
        driver = SubElement(element, "driver", name="qemu", type=disk.format, discard="unmap")
        _set_source(element, driver, disk)
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
