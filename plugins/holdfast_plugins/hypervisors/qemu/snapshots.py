"""Making and removing a snapshot in a running QEMU.

For each disk, with names that hold the snapshot's token:

    guest → P (raw) → C (copy-before-write) → the disk's own node ← backing of T
                      C → T (qcow2 overlay) → F (scratch file)             NBD export → T

The instant is one `blockdev-reopen`, which puts all C under all P at once; nothing is stopped for it. From then on
what the guest overwrites is copied to T first, which waits for no agent and no network. Where T cannot take it (full,
slow), it is the snapshot that breaks, and the guest goes on. T does not know that it is broken: what was read of it
counts only when :func:`check` has asked C.

C could be read through a `snapshot-access` node, which knows. But up to QEMU 9.0 two requests to one that overlap end
the whole process, guest and all, and in 7.2 its block status is that of the disk as it is now.

Bitmaps need no part in that instant. The new one begins before it and the old ones go on, so each holds at any time at
least what was written since its own instant: one block too many is read, never one too few. The reader gets a copy.
"""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from holdfast_plugins.hypervisors.tracking_names import TrackingName, parse_tracking_name, superseded

from .inventory import Disk, bitmaps_of, try_run
from .monitor import CommandRefused, Monitor
from .probe import end_probe, finish_job, probe
from .scratch import NO_FLUSH, Listening, add_scratch, remove_socket, socket_path, start_nbd_server
from .tracking import GRANULARITY_BYTES, copied_for, copy_name, usable

_EXPORT_TYPE = "nbd"


class Outcome(StrEnum):
    """What became of the restore point for which a snapshot was made. ``UNKNOWN``: its session died."""

    COMMITTED = "committed"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Place(msgspec.Struct, frozen=True):
    """One disk of a snapshot: where it hangs in QEMU."""

    device: str
    node: str


class Frozen(msgspec.Struct, frozen=True):
    """All that is needed to remove a snapshot: written down before it is made. ``tracking``: a tracking name."""

    tracking: TrackingName
    scratch_dir: str
    places: tuple[Place, ...]

    def name(self, kind: str, index: int) -> str:
        """Of a block node or an export; at most 31 bytes, as QEMU wants it."""
        return f"holdfast-{self.tracking.token}-{kind}{index}"

    @property
    def socket(self) -> Path:
        return socket_path(Path(self.scratch_dir), self.tracking.token)

    def forget(self) -> None:
        """QEMU has ended, and all with it but the socket's name."""
        remove_socket(self.socket)


def freeze(monitor: Monitor, frozen: Frozen, disks: list[Disk], copy_timeout_s: int) -> None:
    """Make the snapshot. Raises ``OSError`` or ``CommandRefused``; what is made until then is for :func:`release`."""
    for index, disk in enumerate(disks):
        _prepare(monitor, frozen, index, disk, copy_timeout_s)
    monitor.transaction([("block-dirty-bitmap-add", _new_bitmap(disk, str(frozen.tracking))) for disk in disks])
    reopened = [_pass_through(frozen, index, frozen.name("c", index)) for index in range(len(disks))]
    monitor.run("blockdev-reopen", {"options": reopened})


def expose(monitor: Monitor, frozen: Frozen, disks: list[Disk], listening: Listening) -> dict[str, dict[str, str]]:
    """Serve the snapshot's disks. Returns, by disk, the copies of bitmaps that its export tells, by bitmap."""
    copies = _copy_bitmaps(monitor, frozen, disks)
    start_nbd_server(monitor, frozen.socket, listening)
    for index, disk in enumerate(disks):
        name, told = frozen.name("e", index), copies[disk.disk_id].values()
        export = {"type": _EXPORT_TYPE, "id": name, "name": name, "node-name": frozen.name("t", index)}
        bitmaps = [{"node": disk.node, "name": copy} for copy in told]
        monitor.run("block-export-add", export | {"bitmaps": bitmaps})
    return copies


def check(monitor: Monitor, frozen: Frozen) -> str:
    """Why what was read of the snapshot cannot be relied on; empty where it can. Nobody reads it any more."""
    nodes = {node["node-name"] for node in monitor.run("query-named-block-nodes", {"flat": True})}
    for index in range(len(frozen.places)):
        copier = frozen.name("c", index)
        if copier not in nodes:
            return f"it is gone: QEMU has no block node {copier}"
        reason = probe(monitor, frozen.name("x", index), copier)
        if reason:
            return (
                f"old data could not be put into {frozen.scratch_dir} in time, and the guest was not made to wait for "
                f"it ({reason}); see that there is room, and that it is fast enough"
            )
    return ""


def release(monitor: Monitor, frozen: Frozen, outcome: Outcome) -> None:
    """Remove all of a snapshot that there is. Idempotent. Raises ``OSError`` or ``CommandRefused``.

    The export goes first, and the guest's own path is whole at every step. Bitmaps: a point that exists supersedes the
    others of its series; one that failed leaves no bitmap. Where it is not known, the new and the old ones all stay,
    and the next point settles it.
    """
    _withdraw(monitor, frozen)
    for index, place in enumerate(frozen.places):
        _take_out(monitor, frozen, index, place)
    _settle_bitmaps(monitor, frozen.tracking, outcome)
    frozen.forget()


def _prepare(monitor: Monitor, frozen: Frozen, index: int, disk: Disk, copy_timeout_s: int) -> None:
    """All nodes of one disk, which change nothing yet: what P passes on goes straight to the disk's node."""
    scratch, overlay, copier = (frozen.name(kind, index) for kind in "ftc")
    add_scratch(monitor, Path(frozen.scratch_dir), scratch)
    job = {"job-id": scratch, "options": {"driver": "qcow2", "file": scratch, "size": disk.size_bytes}}
    finish_job(monitor, "blockdev-create", job)
    add = {"driver": "qcow2", "node-name": overlay, "file": scratch, "backing": disk.node, "discard": "unmap"}
    monitor.run("blockdev-add", add | NO_FLUSH)
    policy = {"on-cbw-error": "break-snapshot", "cbw-timeout": copy_timeout_s}
    copy = {"driver": "copy-before-write", "node-name": copier, "file": disk.node, "target": overlay}
    monitor.run("blockdev-add", copy | policy | {"discard": "unmap"})
    monitor.run("blockdev-add", _pass_through(frozen, index, disk.node))
    _hang(monitor, disk.device, frozen.name("p", index))


def _pass_through(frozen: Frozen, index: int, below: str) -> dict[str, Any]:
    return {"driver": "raw", "node-name": frozen.name("p", index), "file": below, "discard": "unmap"}


def _hang(monitor: Monitor, device: str, node: str) -> None:
    """Let the guest's device use another node from now on; requests under way are finished before."""
    path = device if device.startswith("/") else f"/machine/peripheral/{device}"
    monitor.run("qom-set", {"path": path, "property": "drive", "value": node})


def _new_bitmap(disk: Disk, name: str) -> dict[str, Any]:
    options = {"granularity": GRANULARITY_BYTES, "persistent": disk.keeps_bitmaps}
    return {"node": disk.node, "name": name} | options


def _copy_bitmaps(monitor: Monitor, frozen: Frozen, disks: list[Disk]) -> dict[str, dict[str, str]]:
    """Copies that no longer change, of all bitmaps of the series that are good; begun and filled at one instant."""
    bitmaps = bitmaps_of(monitor)
    copies: dict[str, dict[str, str]] = {}
    actions: list[tuple[str, dict[str, Any]]] = []
    for disk in disks:
        copies[disk.disk_id] = {}
        for name, facts in bitmaps.get(disk.node, {}).items():
            parsed = parse_tracking_name(name)
            if parsed is None or parsed == frozen.tracking or parsed.series != frozen.tracking.series:
                continue
            if usable(facts):
                copy = copies[disk.disk_id][name] = copy_name(name, frozen.tracking)
                add = {"node": disk.node, "name": copy, "granularity": facts["granularity"], "disabled": True}
                actions.append(("block-dirty-bitmap-add", add))
                merge = {"node": disk.node, "target": copy, "bitmaps": [name]}
                actions.append(("block-dirty-bitmap-merge", merge))
    monitor.transaction(actions)
    return copies


def _withdraw(monitor: Monitor, frozen: Frozen) -> None:
    """End the exports, and the server if it is this snapshot's."""
    ours = {frozen.name("e", index) for index in range(len(frozen.places))}

    def served() -> set[str]:
        return {export["id"] for export in monitor.run("query-block-exports") if export["type"] == _EXPORT_TYPE}

    for name in sorted(ours & served()):
        # Refused where the export is shutting down already.
        try_run(monitor, "block-export-del", {"id": name, "mode": "hard"})
    monitor.wait_until(lambda: not ours & served(), "block-export-del")
    if not served() and frozen.socket.exists() and _anything_left(monitor, frozen):
        try_run(monitor, "nbd-server-stop")  # refused where it was stopped before


def _anything_left(monitor: Monitor, frozen: Frozen) -> bool:
    nodes = {node["node-name"] for node in monitor.run("query-named-block-nodes", {"flat": True})}
    return any(frozen.name(kind, index) in nodes for kind in "pctf" for index in range(len(frozen.places)))


def _take_out(monitor: Monitor, frozen: Frozen, index: int, place: Place) -> None:
    """Give the device its own node back. C must hang alone at its disk when that is done: as long as it has a parent
    that is not the guest, it forbids the guest to write past it.
    """
    nodes = {node["node-name"] for node in monitor.run("query-named-block-nodes", {"flat": True})}
    above, copier, overlay, scratch = (frozen.name(kind, index) for kind in "pctf")
    end_probe(monitor, frozen.name("x", index), nodes)
    try_run(monitor, "job-dismiss", {"id": scratch})  # of a `blockdev-create` whose end nobody saw
    if above in nodes:
        if _root_of(monitor, place.device) == above:
            _hang(monitor, place.device, copier)
        _delete(monitor, above)
    if _root_of(monitor, place.device) == copier:
        _hang(monitor, place.device, place.node)
    for node in (copier, overlay, scratch):
        if node in nodes:
            _delete(monitor, node)


def _root_of(monitor: Monitor, device: str) -> str:
    """The node that a guest's device uses; empty when there is no such device (any more)."""
    for told in monitor.run("query-block"):
        if told.get("qdev") == device:
            return str(told.get("inserted", {}).get("node-name", ""))
    return ""


def _delete(monitor: Monitor, node: str) -> None:
    monitor.run("blockdev-del", {"node-name": node})


def _settle_bitmaps(monitor: Monitor, newest: TrackingName, outcome: Outcome) -> None:
    for node, bitmaps in bitmaps_of(monitor).items():
        drop = [name for name in bitmaps if copied_for(name, newest)]
        if outcome is Outcome.FAILED and str(newest) in bitmaps:
            drop.append(str(newest))
        if outcome is Outcome.COMMITTED and str(newest) in bitmaps:
            drop += superseded(bitmaps, newest)
        for name in drop:
            monitor.run("block-dirty-bitmap-remove", {"node": node, "name": name})


def undo(monitor: Monitor, frozen: Frozen) -> bool:
    """Remove what a failed :func:`freeze` has made, without hiding why it failed; whether nothing is left."""
    with contextlib.suppress(CommandRefused, OSError):
        release(monitor, frozen, Outcome.FAILED)
        return True
    return False
