"""What a snapshot in a running QEMU is made of, by name: written down before any of it exists."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from holdfast_plugins.hypervisors.tracking_names import TrackingName

from .inventory import Disk
from .options import Fleecing
from .scratch import remove_socket, socket_path


class Outcome(StrEnum):
    """What became of the restore point for which a snapshot was made. ``UNKNOWN``: its session died."""

    COMMITTED = "committed"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Place(msgspec.Struct, frozen=True):
    """One disk of a snapshot: where it hangs in QEMU."""

    device: str
    node: str


class Frozen(msgspec.Struct, frozen=True):
    """All that is needed to remove a snapshot."""

    tracking: TrackingName
    scratch_dir: str
    places: tuple[Place, ...]
    fleecing: Fleecing

    def name(self, kind: str, index: int) -> str:
        """Of a block node, a job or an export; at most 31 bytes, as QEMU wants it."""
        return f"holdfast-{self.tracking.token}-{kind}{index}"

    @property
    def socket(self) -> Path:
        return socket_path(Path(self.scratch_dir), self.tracking.token)

    def forget(self) -> None:
        """QEMU has ended, and all with it but the socket's name."""
        remove_socket(self.socket)


def frozen_of(tracking: TrackingName, scratch_dir: str, disks: list[Disk], fleecing: Fleecing) -> Frozen:
    """The record of a snapshot that is about to be made."""
    return Frozen(tracking, scratch_dir, tuple(Place(disk.device, disk.node) for disk in disks), fleecing)
