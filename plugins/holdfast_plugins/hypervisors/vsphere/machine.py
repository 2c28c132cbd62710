"""What matters of a VM when a snapshot of it is made or removed, read in one request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from .binding import VsphereRefused
from .connection import Connection
from .properties import properties_of

_PATHS = (
    "capability.changeTrackingSupported",
    "config.changeTrackingEnabled",
    "config.hardware.device",
    "datastore",
    "guest.toolsRunningStatus",
    "recentTask",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
    "runtime.powerState",
    "snapshot.rootSnapshotList",
)
GONE = "ManagedObjectNotFound"
"""The fault of an object that was there before."""
_RUNNING = ("queued", "running")
_MAKES_SNAPSHOTS = ("createSnapshot", "CreateSnapshot")


class SnapshotOf(msgspec.Struct, frozen=True):
    """A snapshot of a VM, whosever it is. ``entity``: its managed object."""

    entity: Any
    name: str
    created: datetime


class MachineState(msgspec.Struct, frozen=True):
    """A VM at one moment. ``snapshots``: all, parents before their children. ``devices``: its virtual hardware."""

    entity: Any
    devices: Sequence[Any]
    snapshots: tuple[SnapshotOf, ...]
    datastores: tuple[Any, ...]
    tasks: tuple[Any, ...]
    running: bool
    connected: bool
    tools_running: bool
    tracked: bool
    trackable: bool
    told_to_consolidate: bool

    @property
    def needs_consolidation(self) -> bool:
        """Whether the server says so, or a disk has a delta that no snapshot accounts for."""
        if self.told_to_consolidate:
            return True
        return not self.snapshots and any(
            getattr(getattr(device, "backing", None), "parent", None) is not None for device in self.devices
        )

    def snapshot(self, name: str) -> SnapshotOf | None:
        return next((each for each in self.snapshots if each.name == name), None)


def look(connection: Connection, entity: Any) -> MachineState:
    """Raises ``VsphereRefused`` ("ManagedObjectNotFound" where the VM is gone) or ``HypervisorUnreachable``."""
    told = properties_of(connection, entity, _PATHS)
    return MachineState(
        entity,
        told.get("config.hardware.device") or (),
        tuple(_flattened(told.get("snapshot.rootSnapshotList") or ())),
        tuple(told.get("datastore") or ()),
        tuple(told.get("recentTask") or ()),
        str(told.get("runtime.powerState")) != "poweredOff",
        str(told.get("runtime.connectionState")) == "connected",
        str(told.get("guest.toolsRunningStatus")) == "guestToolsRunning",
        bool(told.get("config.changeTrackingEnabled")),
        bool(told.get("capability.changeTrackingSupported")),
        bool(told.get("runtime.consolidationNeeded")),
    )


def makes_a_snapshot(connection: Connection, state: MachineState) -> bool:
    """Whether a task is at work on the VM that will have made a snapshot when it is done, perhaps of a dead session."""
    for task in state.tasks:
        try:
            told = properties_of(connection, task, ("info.state", "info.descriptionId"))
        except VsphereRefused as error:
            if error.fault != GONE:
                raise
            continue  # the server forgets tasks that are over
        words = str(told.get("info.descriptionId", ""))
        if str(told.get("info.state")) in _RUNNING and any(each in words for each in _MAKES_SNAPSHOTS):
            return True
    return False


def _flattened(trees: Sequence[Any]) -> Iterator[SnapshotOf]:
    for tree in trees:
        created = tree.createTime
        yield SnapshotOf(tree.snapshot, str(tree.name), created if created.tzinfo else created.replace(tzinfo=UTC))
        yield from _flattened(tree.childSnapshotList or ())
