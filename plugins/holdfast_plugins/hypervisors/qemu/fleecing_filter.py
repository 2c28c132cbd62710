"""Fleecing by a filter that the guest's device is made to write through.

    guest → P (raw) → C (copy-before-write) → the disk's own node ← backing of T
                      C → T (overlay) → F (scratch file)             NBD export → T

The instant is one `blockdev-reopen`, which puts all C under all P at once; nothing is stopped for it. From then on
what the guest overwrites is copied to T first, which waits for no agent and no network. Where T cannot take it (full,
slow), it is the snapshot that breaks, and the guest goes on. T does not know that it is broken: what was read of it
counts only when C has been asked.

C could be read through a `snapshot-access` node, which knows. But up to QEMU 9.0 two requests to one that overlap end
the whole process, guest and all, and in 7.2 its block status is that of the disk as it is now.

Not for disks with an I/O thread: to give a busy one another node ends QEMU 7.2 (`qemu_mutex_unlock_impl`).
"""

from __future__ import annotations

from typing import Any

from .frozen import Frozen, Place
from .inventory import Disk, node_names, root_of
from .monitor import Monitor
from .overlays import add_overlay
from .probe import end_probe, probe


def prepare_filter(monitor: Monitor, frozen: Frozen, index: int, disk: Disk, copy_timeout_s: int) -> None:
    """All nodes of one disk, which change nothing yet: what P passes on goes straight to the disk's node."""
    add_overlay(monitor, frozen, index, disk, reserve=False)
    policy = {"on-cbw-error": "break-snapshot", "cbw-timeout": copy_timeout_s, "discard": "unmap"}
    below = {"file": disk.node, "target": frozen.name("t", index)}
    copier = {"driver": "copy-before-write", "node-name": frozen.name("c", index)}
    monitor.run("blockdev-add", copier | below | policy)
    monitor.run("blockdev-add", _pass_through(frozen, index, disk.node))
    _hang(monitor, disk.device, frozen.name("p", index))


def insert_filters(monitor: Monitor, frozen: Frozen) -> None:
    """The instant of the snapshot."""
    reopened = [_pass_through(frozen, index, frozen.name("c", index)) for index in range(len(frozen.places))]
    monitor.run("blockdev-reopen", {"options": reopened})


def why_broken(monitor: Monitor, frozen: Frozen, index: int) -> str:
    """Why a disk's T does not hold what it should; empty if it does. Nobody reads it any more."""
    copier = frozen.name("c", index)
    if copier not in node_names(monitor):
        return f"QEMU has no block node {copier} any more"
    return probe(monitor, frozen.name("x", index), copier)


def take_out(monitor: Monitor, frozen: Frozen, index: int, place: Place) -> None:
    """Give the device its own node back. Idempotent. C must hang alone at its disk when that is done: as long as it has
    a parent that is not the guest, it forbids the guest to write past it.
    """
    nodes = node_names(monitor)
    above, copier = frozen.name("p", index), frozen.name("c", index)
    end_probe(monitor, frozen.name("x", index), nodes)
    if above in nodes:
        if root_of(monitor, place.device) == above:
            _hang(monitor, place.device, copier)
        monitor.run("blockdev-del", {"node-name": above})
    if copier in nodes:
        if root_of(monitor, place.device) == copier:
            _hang(monitor, place.device, place.node)
        monitor.run("blockdev-del", {"node-name": copier})


def _pass_through(frozen: Frozen, index: int, below: str) -> dict[str, Any]:
    return {"driver": "raw", "node-name": frozen.name("p", index), "file": below, "discard": "unmap"}


def _hang(monitor: Monitor, device: str, node: str) -> None:
    """Let the guest's device use another node from now on; requests under way are finished before."""
    path = device if device.startswith("/") else f"/machine/peripheral/{device}"
    monitor.run("qom-set", {"path": path, "property": "drive", "value": node})
