"""The images of a VM that is off, kept from being opened for writing while they are read.

Nothing is made and nothing is written, so nothing is left behind: the locks end with this process. A QEMU that is
started in the meantime is refused the images.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from holdfast_agent.errors import SnapshotFailed

from .image_locks import ImageKept

NOTE = "the VM is off: its images are read, and it cannot be started until they are"
_PREFIX, _STAMP = "resting-", "file-"


class RestingImages(msgspec.Struct, frozen=True):
    """A snapshot of this kind. ``stamps``: by disk the change id, which stands for the state of its image; a disk
    whose image does not tell when it was written to has none.
    """

    snapshot_id: str
    kept: dict[str, ImageKept]
    stamps: dict[str, str]

    def written_to(self) -> list[str]:
        """Disks whose images were written to all the same, by something that takes no locks."""
        return [disk for disk, stamp in self.stamps.items() if _STAMP + self.kept[disk].stamp != stamp]

    def release(self) -> None:
        """Idempotent."""
        for kept in self.kept.values():
            kept.release()


def keep_images(vm: str, images: Mapping[str, Path]) -> RestingImages:
    """Keep ``images``, by disk, as they are. Raises ``SnapshotFailed`` (retryable) when one of them is in use."""
    with ExitStack() as stack:
        kept = {disk: _keep(stack, vm, path) for disk, path in images.items()}
        stamps = {disk: _STAMP + each.stamp for disk, each in kept.items() if each.stamp}
        stack.pop_all()
    return RestingImages(_PREFIX + secrets.token_hex(8), kept, stamps)


def is_stamp(change_id: str) -> bool:
    """Whether a change id is of a snapshot of this kind."""
    return change_id.startswith(_STAMP)


def _keep(stack: ExitStack, vm: str, path: Path) -> ImageKept:
    try:
        kept = ImageKept(path)
    except BlockingIOError as error:
        raise SnapshotFailed(vm=vm, reason=f"it is off, but {path} is open for writing in another process") from error
    except OSError as error:
        raise SnapshotFailed(vm=vm, reason=f"it is off, and its image cannot be read: {error}") from error
    stack.callback(kept.release)
    return kept
