"""The change tracker: changed-block tracking of ESXi, asked until it has told of the whole disk."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import Snapshot

from .binding import VsphereRefused
from .connection import Connection
from .driver import VsphereDriver
from .snapshots import Taken
from .tracked_ids import ALLOCATED, change_since

_MOST_EXTENTS = 8_000_000
"""A disk of 64 TiB whose every other 4 MiB changed has as many; more are nobody's changes."""


class CbtTracker:
    """A ``ChangeTracker`` for :class:`VsphereDriver`."""

    def __init__(self, driver: VsphereDriver) -> None:
        self._driver = driver

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent]:
        taken = self._taken(snapshot)
        return self._ask(taken, disk_id, change_since(taken.disks[disk_id], since))

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        """All that was ever written, where ESXi can tell: it refuses, or names the whole disk, where it cannot."""
        taken = self._taken(snapshot)
        if not taken.disks[disk_id].change_id:
            return None
        try:
            return self._ask(taken, disk_id, ALLOCATED)
        except ChangeTrackingLost:
            return None

    def _taken(self, snapshot: Snapshot) -> Taken:
        taken = self._driver.taken(snapshot)
        if taken is None:
            raise ChangeTrackingLost(reason="the snapshot is not one of this session")
        return taken

    def _ask(self, taken: Taken, disk_id: str, change: str) -> Sequence[Extent]:
        """Ascending and clipped to the disk. Raises ``ChangeTrackingLost``."""
        disk, found, start = taken.disks[disk_id], list[Extent](), 0
        while start < disk.size_bytes:  # at the end itself ESXi would refuse to answer
            told = _page(self._driver.connection, taken, disk.key, start, change)
            following = int(told.startOffset) + int(told.length)
            if following <= start or len(found) > _MOST_EXTENTS:
                raise ChangeTrackingLost(reason=f"the server tells nothing of the disk from {start} on")
            for area in told.changedArea or ():
                begin, end = max(int(area.start), start), min(int(area.start) + int(area.length), disk.size_bytes)
                if begin < end:
                    found.append(Extent(begin, end - begin))
            start = following
        return sorted(found, key=lambda extent: extent.start)


def _page(connection: Connection, taken: Taken, key: int, start: int, change: str):  # type: ignore[no-untyped-def]
    try:
        return connection.read(lambda _: taken.machine.QueryChangedDiskAreas(taken.entity, key, start, change))
    except VsphereRefused as error:
        raise ChangeTrackingLost(reason=f"the server cannot tell what changed: {error}") from error
