"""The protocol of change trackers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holdfast_agent.model.geometry import Extent

from .values import Snapshot


class ChangeTracker(Protocol):
    """Knows which parts of a disk changed between two snapshots. Made by the registered factory for one driver.

    A tracker is never trusted with correctness: what it cannot say for sure it refuses, and the session falls to
    comparing digests.
    """

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent]:
        """All extents changed between change id ``since`` and the snapshot: ascending, to the disk's end, never a page.

        Called once per disk, while the snapshot exists. Raises ``ChangeTrackingLost`` with the reason whenever that
        cannot be told for sure; any other error is treated likewise and reported as a defect of the plugin.
        """
        ...

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        """All extents ever written, ascending; None when the tracker cannot tell (the disk itself is then asked)."""
        ...
