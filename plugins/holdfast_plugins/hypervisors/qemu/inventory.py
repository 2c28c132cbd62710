"""What a running QEMU tells of itself: the disks that its guest can write to, and how it was started."""

from __future__ import annotations

import socket
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from holdfast_agent.errors import DiskUnsupported
from holdfast_plugins.api import DiskInfo, VmInfo, VmRef
from holdfast_plugins.hypervisors.places import directory_of

from .firmware import Firmware, firmware_of, is_flash, kind_of
from .monitor import CommandRefused, Monitor

_OURS = "holdfast-"
_MAX_COMMAND_BYTES = 1 << 20
_PASSED_ON = frozenset({"scsi-block", "scsi-generic"})
"""Devices whose commands QEMU hands to the host's disk as they are, past bitmaps and filters."""


class Disk(msgspec.Struct, frozen=True):
    """A disk of a guest.

    ``device``: as `query-block` names it, an id or an object's path; ``node``: the block node that the guest's writes
    go to; ``image``: the file as QEMU names it; ``driver``: ``qcow2``, ``raw``, …; ``keeps_bitmaps``: a dirty bitmap
    survives the end of QEMU.
    """

    disk_id: str
    device: str
    node: str
    driver: str
    size_bytes: int
    image: str = ""
    keeps_bitmaps: bool = False

    @property
    def info(self) -> DiskInfo:
        return DiskInfo(self.disk_id, self.disk_id, self.size_bytes, directory_of(self.image))


class Description(msgspec.Struct, frozen=True):
    """A VM as it runs, kept in restore points. ``command``: QEMU's own arguments, empty where they cannot be seen."""

    name: str
    uuid: str
    version: str
    disks: tuple[Disk, ...]
    command: tuple[str, ...] = ()
    firmware: tuple[Firmware, ...] = ()


def disks_of(monitor: Monitor) -> list[Disk]:
    """The disks that a guest can write to, in QEMU's order.

    CD drives, other removable or read-only media, and the flash of firmware are none.

    Raises :class:`DiskUnsupported` for one that has no name by which it could be found again, or whose content QEMU
    does not see.
    """
    found = []
    for told in monitor.run("query-block"):
        inserted = told.get("inserted")
        device = told.get("qdev", "")
        if inserted is None or inserted["ro"] or told["removable"] or not device:
            continue
        kind = kind_of(monitor, device)
        if is_flash(kind):
            continue
        _check_seen(device, kind)
        image = inserted["image"]
        details = image.get("format-specific", {}).get("data", {})
        found.append(
            Disk(
                disk_id=_disk_id(told, device),
                device=device,
                node=inserted["node-name"],
                driver=inserted["drv"],
                size_bytes=image["virtual-size"],
                image=image["filename"],
                keeps_bitmaps=inserted["drv"] == "qcow2" and details.get("compat") != "0.10",
            )
        )
    return found


def node_names(monitor: Monitor) -> set[str]:
    """Of all block nodes."""
    return {node["node-name"] for node in monitor.run("query-named-block-nodes", {"flat": True})}


def snapshot_nodes(monitor: Monitor) -> set[str]:
    """The names of all block nodes that snapshots of this plugin have left in QEMU, or are using."""
    return {name for name in node_names(monitor) if name.startswith(_OURS)}


def root_of(monitor: Monitor, device: str) -> str:
    """The node that a guest's device uses; empty when there is no such device (any more)."""
    for told in monitor.run("query-block"):
        if told.get("qdev") == device:
            return str(told.get("inserted", {}).get("node-name", ""))
    return ""


def has_io_threads(monitor: Monitor) -> bool:
    """Whether a disk may be worked on by another thread than QEMU's main one."""
    return bool(monitor.run("query-iothreads"))


def bitmaps_of(monitor: Monitor) -> dict[str, dict[str, dict[str, Any]]]:
    """By block node, the dirty bitmaps that have a name."""
    found = {}
    for node in monitor.run("query-named-block-nodes", {"flat": True}):
        bitmaps = node.get("dirty-bitmaps", ())
        found[node["node-name"]] = {bitmap["name"]: bitmap for bitmap in bitmaps if bitmap.get("name")}
    return found


def describe(vm: VmRef, monitor: Monitor) -> Description:
    """The VM's facts now, with what is needed to start it elsewhere. Only while no snapshot is in its disks' way."""
    return Description(
        name=vm.name,
        uuid=monitor.run("query-uuid")["UUID"],
        version=".".join(map(str, monitor.version)),
        disks=tuple(disks_of(monitor)),
        command=_command(monitor),
        firmware=firmware_of(monitor),
    )


def vm_info_of(vm: VmRef, description: Description, *, running: bool) -> VmInfo:
    """What the inventory tells of a VM."""
    disks = tuple(disk.info for disk in description.disks)
    left_out = tuple(chip.told for chip in description.firmware if chip.missed)
    return VmInfo(vm, disks, running, msgspec.json.encode(description), socket.gethostname(), left_out)


def _check_seen(device: str, kind: str) -> None:
    if kind in _PASSED_ON:
        reason = f"it is a device that the guest commands itself ({kind}), past QEMU: no snapshot freezes it"
        raise DiskUnsupported(
            disk=device, reason=reason, advice="Give the guest the device as scsi-hd, or back it up in it"
        )


def _disk_id(told: dict[str, Any], device: str) -> str:
    """The id of the device, else that of its drive: what the operator named, and will name so again."""
    parts = PurePosixPath(device).parts
    if parts[0] != "/":
        return device
    if parts[:3] == ("/", "machine", "peripheral") and len(parts) > 3:
        return parts[3]
    if told["device"]:
        return str(told["device"])
    advice = "Start QEMU with an id= for this device"
    raise DiskUnsupported(disk=device, reason="its device has no id, so it cannot be known again", advice=advice)


def _command(monitor: Monitor) -> tuple[str, ...]:
    process = monitor.process()
    if process is None:
        return ()
    try:
        with Path(f"/proc/{process}/cmdline").open("rb") as file:
            raw = file.read(_MAX_COMMAND_BYTES)
    except OSError:
        return ()
    return tuple(word.decode(errors="replace") for word in raw.split(b"\0")[:-1]) if raw.endswith(b"\0") else ()


def try_run(monitor: Monitor, command: str, arguments: dict[str, Any] | None = None) -> bool:
    """Run what may be refused because there is nothing to do it to; whether it was done."""
    try:
        monitor.run(command, arguments)
    except CommandRefused:
        return False
    return True
