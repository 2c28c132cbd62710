"""VMs whose QEMU does not run: their images as they lie there, kept from being opened for writing meanwhile.

Nothing is made and nothing is written, so nothing is left behind: the locks end with this process. A QEMU that is
started in the meantime is refused the image.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl, file_url
from holdfast_plugins.api import Snapshot, SnapshotDisk, VmInfo, VmRef
from holdfast_plugins.hypervisors.image_locks import ImageKept
from holdfast_plugins.hypervisors.images.formats import Image, ImageFormat, open_image

from .inventory import Description, Disk

_PREFIX, _STAMP = "resting-", "file-"


class Resting(msgspec.Struct, frozen=True):
    """A snapshot of this kind. ``stamps``: by disk, what stands for the state of its image."""

    snapshot: Snapshot
    kept: dict[str, ImageKept]
    stamps: dict[str, str]

    def changed(self) -> list[str]:
        """Disks whose images were written to all the same, by something that takes no locks."""
        return [disk for disk, kept in self.kept.items() if _STAMP + kept.stamp != self.stamps[disk]]

    def release(self) -> None:
        """Idempotent."""
        for kept in self.kept.values():
            kept.release()


def is_stamp(change_id: str) -> bool:
    """Whether a change id is of a snapshot of this kind."""
    return change_id.startswith(_STAMP)


def describe_resting(vm: VmRef, description: Description) -> VmInfo:
    """What was known of the VM, with the sizes of its disks now. Raises ``DiskUnsupported``."""
    disks = tuple(msgspec.structs.replace(disk.info, size_bytes=_image(disk).size_bytes) for disk in description.disks)
    return VmInfo(vm, disks, False, msgspec.json.encode(description))


def rest(vm: VmRef, description: Description, disk_ids: Sequence[str]) -> Resting:
    """Keep the images as they are. Raises ``SnapshotFailed`` (retryable) when one of them is in use."""
    known = {disk.disk_id: disk for disk in description.disks}
    missing = sorted(set(disk_ids) - set(known))
    if missing:
        raise SnapshotFailed(vm=vm.name, reason=f"it is off, and was not known to have a disk {', '.join(missing)}")
    with ExitStack() as stack:
        kept = {disk_id: _keep(stack, vm, Path(known[disk_id].image)) for disk_id in disk_ids}
        stamps = {disk_id: _STAMP + each.stamp for disk_id, each in kept.items()}
        disks = tuple(_disk(known[disk_id], stamps[disk_id]) for disk_id in disk_ids)
        note = "the VM is off: its images are read, and it cannot be started until they are"
        stack.pop_all()
    return Resting(Snapshot(_PREFIX + secrets.token_hex(8), vm, disks, note), kept, stamps)


def _disk(disk: Disk, stamp: str) -> SnapshotDisk:
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


def _keep(stack: ExitStack, vm: VmRef, path: Path) -> ImageKept:
    try:
        kept = ImageKept(path)
    except BlockingIOError as error:
        reason = f"nobody listens at its monitor, but {path} is open for writing in another process"
        raise SnapshotFailed(vm=vm.name, reason=reason) from error
    except OSError as error:
        raise SnapshotFailed(vm=vm.name, reason=f"the VM is off, and its image cannot be read: {error}") from error
    stack.callback(kept.release)
    return kept
