"""The ways to the bytes of a snapshot's disk: which there are for a disk, and the URLs by which proxies take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from holdfast_agent.errors import DiskUnsupported
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_plugins.api import VmRef

from .connection import Connection
from .devices import Disk
from .inventory import Inventory
from .options import VsphereOptions


class Source(msgspec.Struct, frozen=True):
    """A disk that a snapshot froze. ``name``: of the snapshot; ``machine`` and ``snapshot``: managed objects."""

    name: str
    machine: Any
    snapshot: Any
    disk: Disk


class Transports:
    """Thread-safe."""

    def __init__(self, connection: Connection, inventory: Inventory, options: VsphereOptions) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options

    def check(self, vm: VmRef, disks: Sequence[Disk]) -> None:
        """Whether each disk could be read if a snapshot froze it. Raises ``DiskUnsupported``."""
        for disk in disks:
            if disk.parent:
                raise DiskUnsupported(
                    disk=f"{vm.name}/{disk.disk_id}",
                    reason="it lies on a snapshot already, and what is over one cannot be read as a file",
                    advice="Remove the snapshots of the VM",
                )

    def urls(self, source: Source) -> tuple[tuple[str, ...], tuple[DiskAccess, ...]]:
        """Disk URLs, best first, and the secrets for them."""
        center = self._inventory.datacenter_of(source.machine._GetMoId())
        url = flat_url(self._options.origin, center, source.disk.datastore, source.disk.file)
        return (url,), (self.access(),)

    def access(self) -> DiskAccess:
        """What a proxy needs to be let at files of datastores for as long as this session lives."""
        options = self._options
        return DiskAccess(origin=options.origin, cookie=self._connection.cookie, certificate_sha256=options.pin)

    def release(self, name: str) -> None:
        """Let go of all disks of the snapshot ``name``, before it is removed. Idempotent."""


def folder_url(origin: str, center: str, datastore: str, path: str) -> str:
    """The URL of a file in a datastore (vSphere Web Services SDK Programming Guide: datastore access by HTTP)."""
    query = urlencode({"dcPath": center, "dsName": datastore}, quote_via=quote)
    return f"{origin}/folder/{quote(path)}?{query}"


def flat_url(origin: str, center: str, datastore: str, descriptor: str) -> str:
    """Likewise for the bytes of a disk: "web.vmdk" describes what is in "web-flat.vmdk"."""
    return folder_url(origin, center, datastore, f"{descriptor.removesuffix('.vmdk')}-flat.vmdk")
