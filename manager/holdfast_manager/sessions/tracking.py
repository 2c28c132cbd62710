"""What the change trackers of a hypervisor tell of one disk. One that cannot tell costs time, never the backup."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast_agent.errors import ChangeTrackingLost, HoldfastError
from holdfast_agent.model.geometry import Extent, Geometry, coalesced
from holdfast_plugins.api import ChangeTracker, DiskBitmap, Snapshot, SnapshotDisk

Trackers = Sequence[tuple[str, ChangeTracker]]


class Told(msgspec.Struct, frozen=True):
    """What was told, by which ``tracker``: extents, or the bitmap that tells them. Without a tracker why none could.

    ``extents`` cover whole blocks: an order grows by the blocks that changed, not by the tracker's own grain. ``lost``
    is empty where nobody was asked.
    """

    tracker: str = ""
    extents: tuple[Extent, ...] | None = None
    bitmap: str = ""
    lost: str = ""


def ask_changes(
    trackers: Trackers, snapshot: Snapshot, disk: SnapshotDisk, geometry: Geometry, since: str | None
) -> Told:
    """What changed on ``disk`` after the change id ``since`` (None: there is none), by the first that can tell."""
    lost = ""
    for name, tracker in trackers if since is not None else ():
        try:
            told = tracker.changed(snapshot, disk.disk_id, since or "")
        except ChangeTrackingLost as error:
            lost = f"{name}: {error.text}"
        except HoldfastError as error:
            lost = f"{name} failed: {error}"
        else:
            if isinstance(told, DiskBitmap):
                return Told(name, bitmap=told.name)
            return Told(name, coalesced(told, geometry))
    return Told(lost=lost)


def ask_allocated(trackers: Trackers, snapshot: Snapshot, disk: SnapshotDisk, geometry: Geometry) -> Told:
    """What of ``disk`` was ever written, for one whose URLs do not tell it themselves."""
    for name, tracker in trackers:
        try:
            extents = tracker.allocated(snapshot, disk.disk_id)
        except HoldfastError:
            continue  # the guard has logged it; the whole disk is read
        if extents is not None:
            return Told(name, coalesced(extents, geometry))
    return Told()
