"""What stands between a session and a plugin's change tracker: see :mod:`.driver_guard`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from holdfast_agent.errors import ChangeTrackingLost, HoldfastError
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import ChangeTracker, DiskBitmap, Snapshot

from .boundary import Boundary, expect

log = logging.getLogger(__name__)
MAX_BITMAP_NAME = 1023  # QEMU's own bound


class GuardedTracker:
    """A ``ChangeTracker`` around a plugin's: whatever goes wrong reads as :class:`ChangeTrackingLost`."""

    def __init__(self, plugin: str, tracker: ChangeTracker) -> None:
        self._boundary = Boundary(plugin)
        self._tracker = tracker

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        with self._losing("changed"):
            told = self._boundary.call(
                "changed", lambda: self._tracker.changed(snapshot, disk_id, since), snapshot.vm.vm_id
            )
            return _known_to_qemu(told) if isinstance(told, DiskBitmap) else _ascending(told)

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        with self._losing("allocated"):
            extents = self._boundary.call(
                "allocated", lambda: self._tracker.allocated(snapshot, disk_id), snapshot.vm.vm_id
            )
            return None if extents is None else _ascending(extents)

    @contextmanager
    def _losing(self, method: str) -> Iterator[None]:
        try:
            with self._boundary.judging(method):
                yield
        except ChangeTrackingLost:
            raise
        except HoldfastError as error:
            log.warning("%s", error)
            raise ChangeTrackingLost(reason=error.text) from error


def _known_to_qemu(bitmap: DiskBitmap) -> DiskBitmap:
    expect(0 < len(bitmap.name) <= MAX_BITMAP_NAME, f"{bitmap.name!r} cannot be the name of a bitmap")
    return bitmap


def _ascending(extents: Sequence[Extent]) -> Sequence[Extent]:
    previous = 0
    for extent in extents:
        expect(extent.start >= previous and extent.length >= 0, f"the extents do not ascend at {extent.start}")
        previous = extent.start
    return extents
