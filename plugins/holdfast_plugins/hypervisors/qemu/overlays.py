"""The overlay of a snapshot's disk: it has the old data that was copied, and shows the disk's own node for all else."""

from __future__ import annotations

from pathlib import Path

from .frozen import Frozen
from .inventory import Disk, node_names, try_run
from .monitor import Monitor
from .probe import finish_job
from .scratch import NO_FLUSH, add_scratch


def add_overlay(monitor: Monitor, frozen: Frozen, index: int, disk: Disk, *, reserve: bool) -> None:
    """Make T over the scratch file F. ``reserve``: all the space that T can ever need is taken now.

    Raises ``OSError`` (no space) or ``CommandRefused``.
    """
    scratch, overlay = frozen.name("f", index), frozen.name("t", index)
    add_scratch(monitor, Path(frozen.scratch_dir), scratch, most_bytes(disk.size_bytes) if reserve else 0)
    job = {"job-id": scratch, "options": {"driver": "qcow2", "file": scratch, "size": disk.size_bytes}}
    finish_job(monitor, "blockdev-create", job)
    add = {"driver": "qcow2", "node-name": overlay, "file": scratch, "backing": disk.node}
    # What is reserved must not be given back.
    monitor.run("blockdev-add", add | NO_FLUSH | ({} if reserve else {"discard": "unmap"}))


def remove_overlay(monitor: Monitor, frozen: Frozen, index: int) -> None:
    """Idempotent; when nothing copies to it and nobody reads it any more."""
    nodes = node_names(monitor)
    try_run(monitor, "job-dismiss", {"id": frozen.name("f", index)})  # of a `blockdev-create` whose end nobody saw
    for node in (frozen.name("t", index), frozen.name("f", index)):
        if node in nodes:
            monitor.run("blockdev-del", {"node-name": node})


def most_bytes(disk_bytes: int) -> int:
    """Of a qcow2 file with all of a disk in it: clusters of 64 KiB, 8 bytes of tables and 2 of counts for each."""
    clusters = -(-disk_bytes >> 16) + 1
    return (clusters << 16) + 10 * clusters + (4 << 20)
