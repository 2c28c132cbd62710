"""The protocol of change trackers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holdfast_agent.model.geometry import Extent

from .values import DiskBitmap, Snapshot


class ChangeTracker(Protocol):
    """Knows which parts of a disk changed between two snapshots. Made by the registered factory for one driver.

    A tracker is never trusted with correctness: what it cannot say for sure it refuses, and the session falls to
    comparing digests. What it does say is audited in every run: blocks that it calls unchanged are read and compared.
    """

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        """All extents changed between change id ``since`` and the snapshot: ascending, to the disk's end, never a page.

        Or the bitmap that tells them, for a disk with an ``nbd+unix:`` URL. Called for each try of each disk, while the
        snapshot exists; ``since`` is the ``change_id`` of an earlier snapshot's disk, of which a restore point was made
        when the disk had the same size. Raises ``ChangeTrackingLost`` with the reason whenever that cannot be told for
        sure; any other error is treated likewise and reported as a defect of the plugin.
        """
        ...

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        """All extents ever written, ascending; None when the tracker cannot tell.

        Called for the first backup of a disk whose URLs do not tell holes from data themselves
        (``SnapshotDisk.allocation`` is False). Errors are treated as None.
        """
        ...
