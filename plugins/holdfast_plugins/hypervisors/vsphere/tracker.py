"""The change tracker: changed-block tracking of ESXi."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import Snapshot

from .changed_areas import changed_areas
from .driver import VsphereDriver
from .snapshots import Taken
from .tracked_ids import ALLOCATED, change_since


class CbtTracker:
    """A ``ChangeTracker`` for :class:`VsphereDriver`."""

    def __init__(self, driver: VsphereDriver) -> None:
        self._driver = driver

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent]:
        taken = self._taken(snapshot)
        disk = taken.disks[disk_id]
        return changed_areas(self._driver.connection, taken.machine, disk, change_since(disk, since), taken.entity)

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        """All that was ever written, where ESXi can tell: it refuses, or names the whole disk, where it cannot."""
        taken = self._taken(snapshot)
        disk = taken.disks[disk_id]
        if not disk.change_id:
            return None
        try:
            return changed_areas(self._driver.connection, taken.machine, disk, ALLOCATED, taken.entity)
        except ChangeTrackingLost:
            return None

    def _taken(self, snapshot: Snapshot) -> Taken:
        taken = self._driver.taken(snapshot)
        if taken is None:
            raise ChangeTrackingLost(reason="the snapshot is not one of this session")
        return taken
