"""A hypervisor plugin for tests whose VM's only disk lies on a web server that wants a cookie.

Loaded through the plugin host's own door (``[plugins] load = ["lab.web_plugin"]``). The disk never changes, so that it
is its own snapshot. The cookie is a secret of the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from holdfast_agent.errors import VmNotFound
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import (
    BackupOnly,
    DiskInfo,
    HypervisorCapabilities,
    Journal,
    Registry,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

VM = VmRef("vm", "vm")
DISK = "disk"


class Options(msgspec.Struct, frozen=True):
    """``certificate_sha256``: of the server, which no authority vouches for."""

    url: str
    size_bytes: int
    certificate_sha256: str


class WebDriver(BackupOnly):
    """One connection; it has no state."""

    def __init__(self, options: Options, secret: Mapping[str, str]) -> None:
        self._options = options
        self._cookie = secret["cookie"]

    def connect(self) -> None:
        pass

    def close(self) -> None:
        pass

    def list_vms(self) -> Sequence[VmRef]:
        return [VM]

    def vm_info(self, vm: VmRef) -> VmInfo:
        if vm != VM:
            raise VmNotFound(vm=vm.name, server=self._options.url)
        return VmInfo(VM, (DiskInfo(DISK, DISK, self._options.size_bytes),))

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        options = self._options
        origin = parse_disk_url(options.url).origin
        access = DiskAccess(origin=origin, cookie=self._cookie, certificate_sha256=options.certificate_sha256)
        disk = SnapshotDisk(DISK, DISK, options.size_bytes, (options.url,), allocation=False, access=(access,))
        return Snapshot("the disk itself", VM, (disk,))

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        pass

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        pass


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "web",
        WebDriver,
        summary="a VM whose disk lies on a web server",
        options_type=Options,
        capabilities=HypervisorCapabilities(restore=False),
    )
