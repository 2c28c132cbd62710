"""Rollbacks: a point is written over the images of a domain that is shut off, where they differ from it."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast_agent.errors import DiskUnsupported, VmNotFound
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl
from holdfast_plugins.api import RestoreDisk, RestoreTarget, VmInfo, VmRef

from ..rewriting import in_place, rewritten_image, runs
from .connection import Connection
from .definition import Disk, disks_of
from .domain import Domain

_FORMATS = frozenset({"qcow2", "raw"})


def prepare(connection: Connection, name: str, info: VmInfo, since: Mapping[str, str]) -> RestoreTarget:
    """As ``RollsBack.prepare_rollback``. The definition stays, but memory that was saved with the disks goes."""
    domain = connection.domain_named(name)
    if domain is None:
        raise VmNotFound(vm=name, server=connection.uri)
    if domain.active:
        raise runs(name, "now")
    wanted = {disk.disk_id for disk in info.disks}
    disks = [disk for disk in disks_of(domain.xml(inactive=True), refuse=False) if disk.target in wanted]
    places = tuple(_place(domain, disk, since.get(disk.target, "")) for disk in disks)
    domain.forget_saved()
    return in_place(domain.vm, places)


def finish(connection: Connection, target: RestoreTarget) -> VmRef:
    """As ``HypervisorDriver.finish_restore``. Raises ``DiskInUse`` for a domain that was started between two disks."""
    domain = connection.domain(target.vm)
    if domain.active:
        raise runs(target.vm.name, "although its disks were being rewritten")
    return domain.vm


def _place(domain: Domain, disk: Disk, since: str) -> RestoreDisk:
    top, size_bytes = disk.top, domain.capacity_bytes(disk.target)
    if top.kind == "block" and top.format == "raw" and top.place:
        return RestoreDisk(
            disk.target, disk.target, size_bytes, str(DiskUrl(DiskScheme.BLOCK, top.place)), create=False
        )
    if top.kind != "file" or top.format not in _FORMATS or not top.place:
        reason = f"its image ({top.kind}, {top.format}) cannot be rewritten in place"
        raise DiskUnsupported(disk=disk.target, reason=reason, advice="Restore the VM with --overwrite")
    return rewritten_image(disk.target, size_bytes, top.place, top.format, since)
