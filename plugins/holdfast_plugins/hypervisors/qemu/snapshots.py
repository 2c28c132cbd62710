"""Making and removing a snapshot in a running QEMU.

An overlay gets the old data before the guest overwrites it, by a filter (:mod:`.fleecing_filter`) or by a job
(:mod:`.fleecing_job`), and is what agents read.

Bitmaps need no part in the instant of the snapshot. The new one begins before it and the old ones go on, so each holds
at any time at least what was written since its own instant: one block too many is read, never one too few. The reader
gets a copy.
"""

from __future__ import annotations

import contextlib
from typing import Any

from holdfast_plugins.hypervisors.tracking_names import TrackingName, parse_tracking_name, superseded

from .fleecing_filter import insert_filters, prepare_filter, take_out, why_broken
from .fleecing_job import begin_job, end_job, why_ended
from .frozen import Frozen, Outcome
from .inventory import Disk, bitmaps_of, node_names, try_run
from .monitor import CommandRefused, Monitor
from .options import Fleecing
from .overlays import add_overlay, remove_overlay
from .scratch import Listening, start_nbd_server
from .tracking import GRANULARITY_BYTES, copied_for, copy_name, usable

_EXPORT_TYPE = "nbd"


def freeze(monitor: Monitor, frozen: Frozen, disks: list[Disk], copy_timeout_s: int) -> None:
    """Make the snapshot. Raises ``OSError`` or ``CommandRefused``; what is made until then is for :func:`release`."""
    actions = [("block-dirty-bitmap-add", _new_bitmap(disk, str(frozen.tracking))) for disk in disks]
    if frozen.fleecing is Fleecing.JOB:
        for index, disk in enumerate(disks):
            add_overlay(monitor, frozen, index, disk, reserve=True)
            actions.append(begin_job(frozen, index, disk))
        monitor.transaction(actions)
        return
    for index, disk in enumerate(disks):
        prepare_filter(monitor, frozen, index, disk, copy_timeout_s)
    monitor.transaction(actions)
    insert_filters(monitor, frozen)


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
    why = why_ended if frozen.fleecing is Fleecing.JOB else why_broken
    for index in range(len(frozen.places)):
        reason = why(monitor, frozen, index)
        if reason:
            return (
                f"old data could not be put into {frozen.scratch_dir}, or not in time ({reason}); see that there is "
                "room, and that it is fast enough"
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
        if frozen.fleecing is Fleecing.JOB:
            end_job(monitor, frozen, index)
        else:
            take_out(monitor, frozen, index, place)
        remove_overlay(monitor, frozen, index)
    _settle_bitmaps(monitor, frozen.tracking, outcome)
    frozen.forget()


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
    return any(frozen.name("t", index) in node_names(monitor) for index in range(len(frozen.places)))


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
