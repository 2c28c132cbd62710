"""Names under which QEMU, by itself or through libvirt, keeps Holdfast's change tracking of a disk.

One name stands for one instant of one VM and is never given again: a record that was lost must not be taken for a
later one. It is the change id that a restore point keeps.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterable

import msgspec

_PREFIX = "holdfast"
_FORM = re.compile(rf"{_PREFIX}-([0-9a-f]{{8}})-([0-9a-f]{{8}})-([0-9a-f]{{12}})", re.ASCII)
MOST_SERIES = 8
"""How many series of points a disk is tracked for at a time: each costs QEMU memory and a little of every write."""


class TrackingName(msgspec.Struct, frozen=True, order=True):
    """``made_at``: Unix time in whole seconds, which orders the names. ``series``: made by :func:`series_tag`."""

    made_at: int
    series: str
    token: str

    def __str__(self) -> str:
        return f"{_PREFIX}-{self.series}-{self.made_at:08x}-{self.token}"


def new_tracking_name(series: str) -> TrackingName:
    """A name for a snapshot that is about to be made. ``series``: as ``SnapshotRequest`` has it."""
    return TrackingName(int(time.time()), series_tag(series), secrets.token_hex(6))


def parse_tracking_name(name: str) -> TrackingName | None:
    """None for any name that Holdfast does not give: it is somebody else's, and is never touched."""
    match = _FORM.fullmatch(name)
    return TrackingName(int(match[2], 16), match[1], match[3]) if match else None


def series_tag(series: str) -> str:
    """Eight hex digits that stand for a series in names."""
    return hashlib.sha256(series.encode()).hexdigest()[:8]


def superseded(names: Iterable[str], newest: TrackingName) -> list[str]:
    """Which of ``names`` are of no use once the point of ``newest`` exists: all others of its series.

    Of other series only the latest stay, :data:`MOST_SERIES` with this one: a repository that is backed up to no longer
    must not be tracked for good.
    """
    ours = {str(parsed): parsed for parsed in map(parse_tracking_name, names) if parsed is not None}
    drop = [name for name, parsed in ours.items() if parsed.series == newest.series and parsed != newest]
    others = sorted((parsed for parsed in ours.values() if parsed.series != newest.series), reverse=True)
    latest: dict[str, TrackingName] = {}
    for parsed in others:
        latest.setdefault(parsed.series, parsed)
    kept = set(list(latest)[: MOST_SERIES - 1])
    return [*drop, *(str(parsed) for parsed in others if parsed.series not in kept)]
