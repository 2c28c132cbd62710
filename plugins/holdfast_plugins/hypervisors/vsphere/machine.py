"""What matters of a VM when a snapshot of it is made or removed, read in one request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from .binding import VsphereRefused
from .connection import Connection
from .properties import properties_of
from .tasks import TOO_SLOW

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
_RECONFIGURES = ("reconfig", "Reconfig")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


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


def snapshots_of(connection: Connection, machine: Any) -> tuple[SnapshotOf, ...]:
    """Those of a VM alone, for a look that is cheap."""
    told = properties_of(connection, machine, ("snapshot.rootSnapshotList",))
    return tuple(_flattened(told.get("snapshot.rootSnapshotList") or ()))


def without_snapshot_task(
    connection: Connection, machine: Any, timeout_s: float, seen: Callable[[MachineState], bool]
) -> MachineState:
    """The VM when ``seen`` is true of it, or no task makes a snapshot of it: a dead session may have begun one.

    Raises :class:`VsphereRefused` (also :data:`TOO_SLOW`) or ``HypervisorUnreachable``.
    """
    return _settled(connection, machine, timeout_s, seen, _MAKES_SNAPSHOTS)


def without_reconfiguration(
    connection: Connection, machine: Any, timeout_s: float, seen: Callable[[MachineState], bool]
) -> MachineState:
    """Likewise when no task changes its configuration."""
    return _settled(connection, machine, timeout_s, seen, _RECONFIGURES)


def _settled(
    connection: Connection, machine: Any, timeout_s: float, seen: Callable[[MachineState], bool], kind: tuple[str, ...]
) -> MachineState:
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    while True:
        state = look(connection, machine)
        if seen(state):
            return state
        if not _at_work(connection, state, kind):
            return look(connection, machine)  # the task may have ended after the first look
        if time.monotonic() > deadline:
            raise VsphereRefused(TOO_SLOW, "a task of a session that has ended is still at work on it")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _at_work(connection: Connection, state: MachineState, kind: tuple[str, ...]) -> bool:
    for task in state.tasks:
        try:
            told = properties_of(connection, task, ("info.state", "info.descriptionId"))
        except VsphereRefused as error:
            if error.fault != GONE:
                raise
            continue  # the server forgets tasks that are over
        words = str(told.get("info.descriptionId", ""))
        if str(told.get("info.state")) in _RUNNING and any(each in words for each in kind):
            return True
    return False


def _flattened(trees: Sequence[Any]) -> Iterator[SnapshotOf]:
    for tree in trees:
        created = tree.createTime
        yield SnapshotOf(tree.snapshot, str(tree.name), created if created.tzinfo else created.replace(tzinfo=UTC))
        yield from _flattened(tree.childSnapshotList or ())
