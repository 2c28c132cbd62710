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

    Lives as long as the driver, in the same process, and has no end of its own: what it holds the driver's ``close``
    gives back. Methods are called from several threads at once, but never two for the same VM. A call that has not come
    back after an hour is given up.
    """

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        """All extents changed between change id ``since`` and the snapshot: ascending, to the disk's end, never a page.

        An extent is ``[start, start + length)`` in bytes; they may touch or overlap, none is past the disk's end, and
        they need not begin at blocks of Holdfast. An empty sequence says that nothing changed. Or the bitmap that tells
        them, for a disk with an ``nbd+unix:`` URL. Called for each try of each disk, while the snapshot exists;
        ``since`` is the ``change_id`` of an earlier snapshot's disk, of which a restore point was made when the disk
        had the same size. Raises ``ChangeTrackingLost`` with the reason whenever that cannot be told for sure; any
        other error is treated likewise and reported as a defect of the plugin.
        """
        ...

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        """All extents ever written, as ``changed`` returns them; None when the tracker cannot tell.

        Called for the first backup of a disk whose URLs do not tell holes from data themselves
        (``SnapshotDisk.allocation`` is False). Errors are treated as None.
        """
        ...
