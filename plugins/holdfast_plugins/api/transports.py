"""What a hypervisor driver may offer besides: several ways to the bytes of a disk, which not every proxy has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from .values import Journal, RestoreDisk, RestoreTarget, Snapshot, SnapshotDisk, VmInfo


@runtime_checkable
class OffersTransports(Protocol):
    """What a ``HypervisorDriver`` has besides if the best way to a disk depends on the proxy that reads it."""

    def near_proxies(self, info: VmInfo, disk_id: str) -> Sequence[Collection[str]]:
        """Agents by name that have a better way to the disk than just any: groups, the best first.

        A preference, not a restriction: other proxies are used when these have no free slot. Called for each task,
        before there is a snapshot. Cheap, and without a request to the server where it can be.
        """
        ...

    def disk_for(self, snapshot: Snapshot, disk: SnapshotDisk, proxy: str, journal: Journal) -> SnapshotDisk:
        """``disk``, with the ways by which the agent ``proxy`` is to read it in ``urls``, the best first.

        Called when a task's transfer begins, once for each of its attempts, perhaps for several disks of a snapshot at
        once. What it makes (the disk attached to the proxy's own VM, say) is promised to ``journal`` first, and undone
        by ``remove_snapshot``. A way that fails is left out, and only if none is left an error is raised.
        """
        ...


@runtime_checkable
class WritesByTransports(Protocol):
    """What a driver that ``RollsBack`` has besides if it must know who writes before it can say where."""

    def place_for(self, target: RestoreTarget, disk: RestoreDisk, proxy: str, journal: Journal) -> RestoreDisk:
        """``disk``, with the URL by which the agent ``proxy``, one of its ``writers``, is to compare and write it.

        Called when a task's transfer begins, once for each of its attempts, perhaps for several disks at once. What it
        makes (the disk attached to the proxy's own VM, say) is promised to ``journal`` first, and undone by
        ``finish_restore`` or ``abandon_restore``.
        """
        ...
