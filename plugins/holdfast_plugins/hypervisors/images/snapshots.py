"""Making and removing snapshots of a VM's images.

One instant over several disks: a clone takes an instant per disk, a copy takes long. The files are looked at before
the first and after the last disk is frozen; if none changed in between, all frozen disks are of one instant. If one
changed, a copy is worthless and fails; clones are each of one instant, but not of the same, and the snapshot says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from holdfast_agent.errors import DiskUnsupported, PlatformError, SnapshotFailed
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl, file_url
from holdfast_agent.model.units import MIB, format_size
from holdfast_plugins.api import Snapshot, SnapshotDisk, VmRef

from ..image_locks import written_by_others
from .confined import make_directory
from .copying import CannotClone, clone, copy_sparse, create_like
from .formats import Image, ImageFormat, open_image
from .options import SnapshotMethod

IN_PLACE_ID = "in-place"
_RESERVE_BYTES = 64 * MIB
"""Left free on the snapshots' file system after a copy: it is often the one on which the VMs live."""
_TIMESTAMP_STEP_S = 0.02
"""The kernel stamps files with a clock that ticks every 1 to 10 ms; two writes within one tick look like one."""
Stamp = tuple[int, int, int]


def stamps_of(vm: VmRef, images: Sequence[Image]) -> dict[Path, Stamp]:
    """How the images are now: any write after this changes the stamp of its image. Raises :class:`SnapshotFailed`."""
    with _translated(vm), ExitStack() as stack:
        opened = {image.path: _open(stack, image.path) for image in images}
        _let_timestamps_pass(list(opened.values()))
        return {path: _stamp(descriptor) for path, descriptor in opened.items()}


def in_place(vm: VmRef, images: Sequence[Image]) -> Snapshot:
    """No snapshot at all: the images themselves, because their owner says that nobody writes to them."""
    for image in images:
        if written_by_others(image.path):
            reason = (
                f"{image.path} is open for writing in another process, so it must not be read in place; "
                "stop the VM, or choose another snapshot method"
            )
            raise SnapshotFailed(vm=vm.name, reason=reason)
    note = "read in place, as configured: right only if nobody writes to the images meanwhile"
    return Snapshot(IN_PLACE_ID, vm, tuple(_disk(image, image.path) for image in images), note)


def freeze(vm: VmRef, images: Sequence[Image], method: SnapshotMethod, directory: Path) -> Snapshot:
    """Freeze ``images`` into the new ``directory``, which is the caller's to delete when this raises.

    Raises :class:`SnapshotFailed` (retryable), or :class:`DiskUnsupported` when clones are asked for but impossible.
    """
    with _translated(vm), ExitStack() as stack:
        make_directory(directory, like=directory.parent)
        sources = [_open(stack, image.path) for image in images]
        _let_timestamps_pass(sources)
        before = [_stamp(source) for source in sources]
        cloned = _freeze_all(images, sources, method, directory)
        after = [_stamp(source) for source in sources]
        # Sizes are those of what was frozen; the disk may have been resized since the inventory was asked.
        frozen = [open_image(directory / image.name, image.format) for image in images]
    changed = [image.name for image, was, now in zip(images, before, after, strict=True) if was != now]
    if changed and not cloned:
        reason = (
            f"{', '.join(changed)} changed while being copied; stop or freeze the VM, or keep its images on a file "
            "system with reflinks (XFS, btrfs)"
        )
        raise SnapshotFailed(vm=vm.name, reason=reason)
    disks = tuple(_disk(image, image.path) for image in frozen)
    note, warning = "reflink" if cloned else "frozen copy", ""
    if changed and len(images) > 1:
        warning = (
            f"the {len(images)} disks were written to meanwhile and are not of one instant: stop the VM, or freeze it "
            "by a guest processor, for a common instant"
        )
    return Snapshot(directory.name, vm, disks, note, warning=warning)


def _freeze_all(images: Sequence[Image], sources: Sequence[int], method: SnapshotMethod, directory: Path) -> bool:
    """Clone all disks, or copy all of them. Returns whether they were cloned."""
    with ExitStack() as stack:
        targets = []
        for image, source in zip(images, sources, strict=True):
            targets.append(create_like(source, directory / image.name))
            stack.callback(os.close, targets[-1])
        if method is not SnapshotMethod.COPY:
            try:
                for source, target in zip(sources, targets, strict=True):
                    clone(source, target)
                return True
            except CannotClone as error:
                if method is SnapshotMethod.REFLINK:
                    advice = 'Set snapshot = "auto" or "copy", or keep images and snapshot_dir on one XFS or btrfs'
                    reason = f"{directory.parent} takes no reflinks of it ({error})"
                    raise DiskUnsupported(disk=str(images[0].path), reason=reason, advice=advice) from error
        _expect_space(sources, directory)
        for source, target in zip(sources, targets, strict=True):
            os.ftruncate(target, 0)
            copy_sparse(source, target)
        return False


def _expect_space(sources: Sequence[int], directory: Path) -> None:
    needed = sum(os.fstat(source).st_blocks * 512 for source in sources) + _RESERVE_BYTES
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise OSError(f"copies need {format_size(needed)}, but only {format_size(free)} are free in {directory.parent}")


def _open(stack: ExitStack, path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    stack.callback(os.close, descriptor)
    return descriptor


def _stamp(descriptor: int) -> Stamp:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _let_timestamps_pass(sources: Sequence[int]) -> None:
    """Wait until the last write is older than a tick, so that the next one cannot carry the same time stamp."""
    latest_s = max(os.fstat(source).st_ctime_ns for source in sources) / 1e9
    age_s = time.time() - latest_s
    if 0 <= age_s < _TIMESTAMP_STEP_S:
        time.sleep(_TIMESTAMP_STEP_S - age_s)


def _disk(image: Image, path: Path) -> SnapshotDisk:
    if image.format is ImageFormat.RAW:
        url = file_url(str(path))
    else:
        url = DiskUrl(DiskScheme.IMAGE, str(path), (("format", str(image.format)),))
    return SnapshotDisk(disk_id=image.name, name=image.name, size_bytes=image.size_bytes, urls=(str(url),))


@contextmanager
def _translated(vm: VmRef) -> Iterator[None]:
    try:
        yield
    except PlatformError:
        raise
    except OSError as error:
        raise SnapshotFailed(vm=vm.name, reason=str(error)) from error
