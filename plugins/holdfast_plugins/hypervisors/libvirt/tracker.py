"""The change tracker: checkpoints while the VM runs, the images' own time stamps while it is off."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import DiskBitmap, Snapshot

from ..resting_images import is_stamp
from .driver import LibvirtDriver
from .resting import Resting
from .snapshots import Taken


class CheckpointTracker:
    """A ``ChangeTracker`` for :class:`LibvirtDriver`."""

    def __init__(self, driver: LibvirtDriver) -> None:
        self._driver = driver

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        taken = self._driver.tracked(snapshot)
        if isinstance(taken, Resting):
            if taken.stamp(disk_id) == since:
                return ()
            raise ChangeTrackingLost(reason="the VM is off, and has run since its last backup")
        if isinstance(taken, Taken) and taken.begun is not None:
            if taken.begun.bitmaps.get(disk_id) == since:
                return DiskBitmap(since)
            if is_stamp(since):
                raise ChangeTrackingLost(reason="the VM was off at its last backup, and has run since")
            reason = taken.begun.lost.get(disk_id) or taken.begun.refused or f"{since} was not asked for"
            raise ChangeTrackingLost(reason=reason)
        raise ChangeTrackingLost(reason="an overlay tells what changes from now on, not what has changed")

    def allocated(self, snapshot: Snapshot, disk_id: str) -> None:
        """Every URL tells it by itself."""
