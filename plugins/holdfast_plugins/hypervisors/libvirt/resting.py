"""Snapshots of a domain that is shut off: its images themselves, read where they lie by an agent on their host.

Where they are this machine's, they are kept from being opened for writing. On another host that is out of reach: there
libvirt tells whether the domain was started meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from holdfast_agent.errors import SnapshotFailed

from ..resting_images import NOTE, RestingImages, keep_images
from .connection import Connection
from .definition import Disk
from .domain import Domain
from .overlays import base_url
from .starts import Starts

_NOTE_ELSEWHERE = "the VM is off: its images are read; if it is started before they are, the backup is given up"


class Resting(msgspec.Struct, frozen=True):
    """A snapshot of this kind. ``urls``: by disk. Its images are kept, or its domain's starts are listened for."""

    snapshot_id: str
    urls: dict[str, str]
    kept: RestingImages | None = None
    starts: Starts | None = None

    @property
    def note(self) -> str:
        return NOTE if self.kept is not None else _NOTE_ELSEWHERE

    def stamp(self, target: str) -> str | None:
        """What stands for the state of a disk's image, if it can be told."""
        return self.kept.stamps.get(target) if self.kept is not None else None

    def why_not_trusted(self) -> str:
        """Why what was read may be of several moments; empty if it is not."""
        if self.kept is not None and (written := self.kept.written_to()):
            return f"somebody wrote to {', '.join(written)} without regard for locks"
        return self.starts.why_not_trusted() if self.starts is not None else ""

    def release(self) -> None:
        """Idempotent."""
        for held in (self.kept, self.starts):
            if held is not None:
                held.release()


def freeze(connection: Connection, domain: Domain, disks: Sequence[Disk]) -> Resting:
    """Keep all images of ``disks`` as they are, or notice when they are not.

    Raises :class:`DiskUnsupported`, or :class:`SnapshotFailed` (retryable) when one of them is in use or the domain is
    being started.
    """
    urls = {disk.target: base_url(disk, disk.top) for disk in disks}
    if connection.is_local:
        kept = keep_images(domain.vm.name, {disk.target: Path(disk.top.place) for disk in disks})
        resting = Resting(kept.snapshot_id, urls, kept=kept)
    else:
        resting = Resting(f"resting-{secrets.token_hex(8)}", urls, starts=domain.starts())
    try:
        if domain.active:
            raise SnapshotFailed(vm=domain.vm.name, reason="it is being started at this moment")
    except BaseException:
        resting.release()
        raise
    return resting
