"""What of a disk changed, as ESXi tells it, asked until it has told of the whole disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.geometry import Extent

from .binding import VsphereRefused
from .connection import Connection
from .devices import Disk

_MOST_EXTENTS = 8_000_000
"""A disk of 64 TiB whose every other 4 MiB changed has as many; more are nobody's changes."""


def changed_areas(
    connection: Connection, machine: Any, disk: Disk, change: str, snapshot: Any = None
) -> Sequence[Extent]:
    """What changed from ``change`` until ``snapshot``, or until now; ascending and clipped to the disk.

    ``snapshot`` None: the VM is off (vSphere API reference: QueryChangedDiskAreas). Raises ``ChangeTrackingLost``.
    """
    found, start = list[Extent](), 0
    while start < disk.size_bytes:  # at the end itself ESXi would refuse to answer
        told = _page(connection, machine, snapshot, disk.key, start, change)
        following = int(told.startOffset) + int(told.length)
        if following <= start or len(found) > _MOST_EXTENTS:
            raise ChangeTrackingLost(reason=f"the server tells nothing of the disk from {start} on")
        for area in told.changedArea or ():
            begin, end = max(int(area.start), start), min(int(area.start) + int(area.length), disk.size_bytes)
            if begin < end:
                found.append(Extent(begin, end - begin))
        start = following
    return sorted(found, key=lambda extent: extent.start)


def _page(connection: Connection, machine: Any, snapshot: Any, key: int, start: int, change: str) -> Any:
    try:
        return connection.read(lambda _: machine.QueryChangedDiskAreas(snapshot, key, start, change))
    except VsphereRefused as error:
        raise ChangeTrackingLost(reason=f"the server cannot tell what changed: {error}") from error
