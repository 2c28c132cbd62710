"""Snapshots of a domain that is shut off: its images themselves, which must be this machine's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed

from ..resting_images import RestingImages, keep_images
from .connection import Connection
from .definition import Disk
from .domain import Domain
from .overlays import base_url


class Resting(msgspec.Struct, frozen=True):
    """A snapshot of this kind. ``urls``: by disk."""

    images: RestingImages
    urls: dict[str, str]


def freeze(connection: Connection, domain: Domain, disks: Sequence[Disk]) -> Resting:
    """Keep all images of ``disks`` as they are.

    Raises :class:`DiskUnsupported`, or :class:`SnapshotFailed` (retryable) when one of them is in use or the domain is
    being started.
    """
    vm = domain.vm.name
    if not connection.is_local:
        reason = "the VM is off, and its images can only be read on the hypervisor's host"
        advice = "Run the manager on that host, or back the VM up while it runs"
        raise DiskUnsupported(disk=disks[0].target, reason=reason, advice=advice)
    urls = {disk.target: base_url(disk, disk.top) for disk in disks}
    images = keep_images(vm, {disk.target: Path(disk.top.place) for disk in disks})
    try:
        if domain.active:
            raise SnapshotFailed(vm=vm, reason="it is being started at this moment")
    except BaseException:
        images.release()
        raise
    return Resting(images, urls)
