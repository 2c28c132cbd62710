"""VMs whose QEMU does not run: their images as they lie there, kept from being opened for writing meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl, file_url
from holdfast_plugins.api import RestoreDisk, RestoreTarget, Snapshot, SnapshotDisk, VmInfo, VmRef
from holdfast_plugins.hypervisors.images.formats import Image, ImageFormat, open_image
from holdfast_plugins.hypervisors.resting_images import NOTE, RestingImages, keep_images
from holdfast_plugins.hypervisors.rewriting import in_place, rewritten_image

from .inventory import Description, Disk, vm_info_of


class Resting(msgspec.Struct, frozen=True):
    """A snapshot of this kind, and what keeps its images."""

    snapshot: Snapshot
    images: RestingImages


def describe_resting(vm: VmRef, description: Description) -> VmInfo:
    """What was known of the VM, with the sizes of its disks now. Raises ``DiskUnsupported``."""
    disks = tuple(msgspec.structs.replace(disk.info, size_bytes=_image(disk).size_bytes) for disk in description.disks)
    return msgspec.structs.replace(vm_info_of(vm, description, running=False), disks=disks)


def rest(vm: VmRef, description: Description, disk_ids: Sequence[str]) -> Resting:
    """Keep the images as they are. Raises ``SnapshotFailed`` (retryable) when one of them is in use."""
    known = {disk.disk_id: disk for disk in description.disks}
    missing = sorted(set(disk_ids) - set(known))
    if missing:
        raise SnapshotFailed(vm=vm.name, reason=f"it is off, and was not known to have a disk {', '.join(missing)}")
    images = keep_images(vm.name, {disk_id: Path(known[disk_id].image) for disk_id in disk_ids})
    try:
        disks = tuple(_disk(known[disk_id], images.stamps.get(disk_id)) for disk_id in disk_ids)
    except BaseException:
        images.release()
        raise
    return Resting(Snapshot(images.snapshot_id, vm, disks, NOTE), images)


def rewritable(
    vm: VmRef, description: Description, disk_ids: Collection[str], since: Mapping[str, str]
) -> RestoreTarget:
    """The images as what a point is to be written over. Raises ``DiskUnsupported``."""
    disks = [disk for disk in description.disks if disk.disk_id in disk_ids]
    return in_place(vm, tuple(_rewritten(disk, since.get(disk.disk_id, "")) for disk in disks))


def _rewritten(disk: Disk, since: str) -> RestoreDisk:
    image = _image(disk)
    return rewritten_image(disk.disk_id, image.size_bytes, str(image.path), image.format.value, since)


def _disk(disk: Disk, stamp: str | None) -> SnapshotDisk:
    image = _image(disk)
    if image.format is ImageFormat.RAW:
        url = file_url(str(image.path))
    else:
        url = DiskUrl(DiskScheme.IMAGE, str(image.path), (("format", image.format.value),))
    return SnapshotDisk(disk.disk_id, disk.disk_id, image.size_bytes, (str(url),), stamp)


def _image(disk: Disk) -> Image:
    path = Path(disk.image)
    if disk.driver not in list(ImageFormat) or not path.is_absolute() or not path.is_file():
        reason = f"its VM is off, and without its QEMU {disk.image!r} ({disk.driver}) cannot be opened"
        raise DiskUnsupported(disk=disk.disk_id, reason=reason, advice="Back the VM up while it runs")
    return open_image(path, ImageFormat(disk.driver))
