"""Snapshots of a domain that is shut off: its images themselves, kept from being opened for writing meanwhile.

Nothing is made and nothing is written, so nothing is left behind: the locks end with this process. A start of the
domain in the meantime is refused by its QEMU. The images must be this machine's.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from holdfast_agent.errors import DiskUnsupported, SnapshotFailed

from ..image_locks import ImageKept
from .connection import Connection
from .definition import Disk
from .domain import Domain
from .overlays import base_url

_PREFIX, _STAMP = "resting-", "file-"


class Resting(msgspec.Struct, frozen=True):
    """A snapshot of this kind. ``stamps``: by disk what stands for the image's state, where it can be told."""

    snapshot_id: str
    urls: dict[str, str]
    stamps: dict[str, str]
    kept: dict[str, ImageKept]

    def written_to(self) -> list[str]:
        """Disks whose images were written to all the same, by something that takes no locks."""
        return [target for target, stamp in self.stamps.items() if _STAMP + self.kept[target].stamp != stamp]

    def release(self) -> None:
        """Idempotent."""
        for kept in self.kept.values():
            kept.release()


def is_resting(snapshot_id: str) -> bool:
    return snapshot_id.startswith(_PREFIX)


def is_stamp(change_id: str) -> bool:
    """Whether a change id is of a snapshot of this kind."""
    return change_id.startswith(_STAMP)


def freeze(connection: Connection, domain: Domain, disks: Sequence[Disk]) -> Resting:
    """Keep all images of ``disks`` as they are.

    Raises :class:`DiskUnsupported`, or :class:`SnapshotFailed` (retryable) when one of them is in use or the domain is
    being started.
    """
    vm = domain.vm.name
    urls = {disk.target: base_url(disk, disk.top) for disk in disks}
    if not connection.is_local:
        reason = "the VM is off, and its images can only be read on the hypervisor's host"
        advice = "Run the manager on that host, or back the VM up while it runs"
        raise DiskUnsupported(disk=disks[0].target, reason=reason, advice=advice)
    with ExitStack() as stack:
        kept = {disk.target: _keep(stack, vm, disk) for disk in disks}
        if domain.active:
            raise SnapshotFailed(vm=vm, reason="it is being started at this moment")
        stamps = {disk.target: _STAMP + kept[disk.target].stamp for disk in disks if disk.top.kind == "file"}
        stack.pop_all()
    return Resting(_PREFIX + secrets.token_hex(8), urls, stamps, kept)


def unchanged(resting: Resting, target: str, since: str) -> bool:
    """Whether the disk is just as it was when it was given the change id ``since``."""
    return resting.stamps.get(target) == since


def _keep(stack: ExitStack, vm: str, disk: Disk) -> ImageKept:
    try:
        kept = ImageKept(Path(disk.top.place))
    except BlockingIOError as error:
        reason = f"the VM is off, but {disk.top.place} is open for writing in another process"
        raise SnapshotFailed(vm=vm, reason=reason) from error
    except OSError as error:
        raise SnapshotFailed(vm=vm, reason=f"the VM is off, and its image cannot be read: {error}") from error
    stack.callback(kept.release)
    return kept
