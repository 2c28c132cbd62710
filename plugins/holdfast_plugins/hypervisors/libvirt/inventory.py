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
    firmware, missed = firmware_of(xml, connection.is_local)
    config = msgspec.json.encode(Definition(xml, firmware))
    return VmInfo(vm, told, domain.running(), config, connection.host, (missed,) if missed else ())


def parse_definition(config: bytes) -> Definition | None:
    """None for what another kind of hypervisor has written."""
    try:
        return msgspec.json.decode(config, type=Definition)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def firmware_of(xml: str, local: bool) -> tuple[str, str]:
    """The variables of UEFI firmware as base64, and why they are not to be had; both are empty where there are none.

    Without them a guest may not find its boot loader. ``local``: this host is the domain's; else nobody can have them,
    which is a limit that restores tell of, and nothing to be warned of each night.
    """
    variables = parse(xml).find("./os/nvram")
    if variables is None:
        return "", ""
    source = variables.find("source")
    place = (source.get("file", "") if source is not None else variables.text or "").strip()
    if not local or (not place and source is None):  # the latter: it never ran
        return "", ""
    try:
        content = Path(place).read_bytes() if place else b""
    except FileNotFoundError:
        return "", ""  # libvirt makes them at the next start
    except OSError as error:
        return "", _missed(f"{place}: {error.strerror}")
    if not 0 < len(content) <= _MOST_FIRMWARE_BYTES:
        return "", _missed(f"{place or 'their place'} is no file of at most {_MOST_FIRMWARE_BYTES >> 20} MiB")
    return base64.b64encode(content).decode(), ""


def _missed(reason: str) -> str:
    return f"the variables of its UEFI firmware ({reason})"
