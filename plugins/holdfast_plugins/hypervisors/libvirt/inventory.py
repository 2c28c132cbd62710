"""What libvirt tells of its domains, and what a restore point keeps of one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import msgspec

from holdfast_plugins.api import DiskInfo, VmInfo, VmRef
from holdfast_plugins.hypervisors.places import directory_of

from .connection import Connection
from .definition import disks_of, parse
from .domain import Domain
from .options import LibvirtOptions

_MOST_FIRMWARE_BYTES = 2 << 20


class Definition(msgspec.Struct, frozen=True, tag="libvirt-1"):
    """The content of ``VmInfo.config``: the domain's XML, and its firmware's variables as base64 if they were read."""

    xml: str
    firmware: str = ""


def list_vms(connection: Connection) -> Sequence[VmRef]:
    return [domain.vm for domain in connection.domains()]


def describe(connection: Connection, domain: Domain, options: LibvirtOptions) -> VmInfo:
    """The facts of one domain now. Raises ``DiskUnsupported``, ``LibvirtRefused`` or ``HypervisorUnreachable``."""
    vm = domain.vm
    disks = disks_of(domain.xml(inactive=not domain.active), lambda target: options.skips(vm.name, target))
    told = tuple(
        DiskInfo(disk.target, disk.target, domain.capacity_bytes(disk.target), directory_of(disk.top.place))
        for disk in disks
    )
    xml = domain.whole_xml()
    definition = Definition(xml, _firmware(xml) if connection.is_local else "")
    return VmInfo(vm, told, domain.running(), msgspec.json.encode(definition), connection.host)


def parse_definition(config: bytes) -> Definition | None:
    """None for what another kind of hypervisor has written."""
    try:
        return msgspec.json.decode(config, type=Definition)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _firmware(xml: str) -> str:
    """The variables of UEFI firmware, without which a guest may not find its boot loader; empty if there are none."""
    place = parse(xml).findtext("./os/nvram") or ""
    try:
        content = Path(place).read_bytes() if place else b""
    except OSError:
        return ""
    return base64.b64encode(content).decode() if len(content) <= _MOST_FIRMWARE_BYTES else ""
