"""Dirty bitmaps of QEMU as change tracking: which can be believed, and why one cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import DiskBitmap, Snapshot
from holdfast_plugins.hypervisors.tracking_names import TrackingName, parse_tracking_name

GRANULARITY_BYTES = 64 << 10
"""Of new bitmaps: a sixteenth of the default block, and of 1 TiB 2 MiB of memory."""
_COPIED = "-at-"


def usable(facts: Mapping[str, Any]) -> bool:
    """Whether a bitmap (``BlockDirtyInfo``) holds all that was written since it began."""
    return bool(facts["recording"]) and not facts.get("inconsistent", False)


def copy_name(name: str, snapshot: TrackingName) -> str:
    """The copy of the bitmap ``name`` that the readers of one snapshot get."""
    return f"{name}{_COPIED}{snapshot.token}"


def copied_for(name: str, snapshot: TrackingName) -> bool:
    """Whether ``name`` was made by :func:`copy_name` for that snapshot."""
    original, at, token = name.partition(_COPIED)
    return bool(at) and token == snapshot.token and parse_tracking_name(original) is not None


def why_lost(since: str, facts: Mapping[str, Any] | None, keeps_bitmaps: bool) -> str:
    """In words, why the bitmap ``since`` of a disk tells nothing."""
    if parse_tracking_name(since) is None:
        return f"{since!r} is no bitmap of this plugin"
    if facts is None and not keeps_bitmaps:
        return f"the bitmap {since} is gone: an image that is not qcow2 keeps none when QEMU ends"
    if facts is None:
        return f"the bitmap {since} is gone: QEMU was killed, or the disk is another image than it was"
    if facts.get("inconsistent"):
        return f"the bitmap {since} is inconsistent: QEMU was killed while it was in use"
    if not facts["recording"]:
        return f"the bitmap {since} was disabled by somebody"
    return f"the bitmap {since} was of another series of points"


class TellsChanges(Protocol):
    """What the tracker needs of its driver."""

    def changes(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        """As :meth:`ChangeTracker.changed`."""
        ...


class BitmapTracker:
    """A ``ChangeTracker`` for snapshots of this plugin's driver. Thread-safe."""

    def __init__(self, driver: TellsChanges) -> None:
        self._driver = driver

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        return self._driver.changes(snapshot, disk_id, since)

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        """None: the disk itself tells holes from data."""
        return None
