"""Fleecing by a backup job of QEMU's own that copies nothing by itself (`sync=none`), only what the guest overwrites.

    guest → (the job's filter) → the disk's own node ← backing of T
                      T (overlay) → F (scratch file, its space taken before)          NBD export → T

It begins in the same transaction as the bitmaps, for all disks at once, and works with I/O threads too. But a copy
that fails fails the guest's own write, after which QEMU pauses the guest. So the scratch file has all the space that it
can need before the job begins; where there is not as much, there is no snapshot. A slow scratch makes the guest wait.
"""

from __future__ import annotations

from typing import Any

from .frozen import Frozen
from .inventory import Disk, try_run
from .monitor import Monitor


def begin_job(frozen: Frozen, index: int, disk: Disk) -> tuple[str, dict[str, Any]]:
    """The action of a transaction that begins it."""
    job = {"job-id": frozen.name("j", index), "device": disk.node, "target": frozen.name("t", index), "sync": "none"}
    return "blockdev-backup", job


def why_ended(monitor: Monitor, frozen: Frozen, index: int) -> str:
    """Why a disk's T does not hold what it should; empty if it does. It does as long as its job runs without error."""
    name = frozen.name("j", index)
    for job in monitor.run("query-block-jobs"):
        if job["device"] == name:
            return "" if job["io-status"] == "ok" else f"the job {name} has met an error ({job['io-status']})"
    return f"the job {name} has ended"


def end_job(monitor: Monitor, frozen: Frozen, index: int) -> None:
    """Idempotent. When nobody reads T any more: from then on it would show what the guest writes."""
    name = frozen.name("j", index)
    try_run(monitor, "block-job-cancel", {"device": name, "force": True})  # refused where there is none
    monitor.wait_until(lambda: name not in {job["id"] for job in monitor.run("query-jobs")}, "block-job-cancel")
