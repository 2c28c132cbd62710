"""Room on datastores: a snapshot grows with what its VM writes, and a full datastore stops all VMs on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .connection import Connection
from .properties import properties_of_all

_PATHS = ("name", "summary.freeSpace", "summary.capacity", "summary.accessible", "summary.type")
_GIB = 1 << 30
_SHARE_OF_SMALL = 0.05
"""Of a small datastore so much must be free, if that is less than what is asked for."""
_NOT_BY_FILE = ("vsan", "vvol")


class DatastoreState(msgspec.Struct, frozen=True):
    """``flat``: whether disks lie on it as files that can be read by their paths."""

    name: str
    free_bytes: int
    capacity_bytes: int
    flat: bool


def look_at(connection: Connection, datastores: Sequence[Any]) -> tuple[DatastoreState, ...]:
    """Raises ``VsphereRefused`` or ``HypervisorUnreachable``."""
    return tuple(
        DatastoreState(
            str(told.get("name", "")),
            int(told.get("summary.freeSpace") or 0),
            int(told.get("summary.capacity") or 0),
            str(told.get("summary.type", "")).lower() not in _NOT_BY_FILE,
        )
        for _, told in properties_of_all(connection, datastores, _PATHS)
    )


def short_of_room(states: Iterable[DatastoreState], least_gib: float) -> str:
    """Which of them has less than ``least_gib`` left (or a twentieth of itself, if that is less); empty if none."""
    for state in states:
        least = min(least_gib * _GIB, state.capacity_bytes * _SHARE_OF_SMALL)
        if state.free_bytes < least:
            free = f"{state.free_bytes / _GIB:.1f} GiB free"
            return f"datastore {state.name} has {free}, and {least / _GIB:.1f} GiB are to stay so"
    return ""
