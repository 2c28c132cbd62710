"""Whether a copy-before-write filter still has all that it was to keep.

One that could not copy lets the guest write all the same, and from then on refuses to be read as a snapshot; no command
and no event tells it. So a few bytes are read as a snapshot, by a job of QEMU's own and alone: requests that overlap
would be dangerous (see :mod:`.snapshots`).
"""

from __future__ import annotations

from typing import Any

from .inventory import try_run
from .monitor import CommandRefused, Monitor

_BYTES = 512
_READY, _DONE = "ready", "concluded"


def probe(monitor: Monitor, name: str, copier: str) -> str:
    """Why the node ``copier`` is broken, in QEMU's words; empty if it is not. Leaves nothing behind.

    ``name``: of what is made for it. Raises ``CommandRefused``.
    """
    access, window, sink = _nodes(name)
    try:
        monitor.run(
            "blockdev-add", {"driver": "snapshot-access", "node-name": access, "file": copier, "read-only": True}
        )
        part = {"driver": "raw", "node-name": window, "file": access, "read-only": True, "size": _BYTES}
        monitor.run("blockdev-add", part)
        monitor.run("blockdev-add", {"driver": "null-co", "node-name": sink, "size": _BYTES, "read-zeroes": True})
        # A mirror, because a backup to a target without block size writes a warning to QEMU's log each time.
        job = {"job-id": name, "device": window, "target": sink, "sync": "full", "auto-dismiss": False}
        monitor.run("blockdev-mirror", job)
        monitor.wait_until(lambda: _job(monitor, name)["status"] in (_READY, _DONE), "blockdev-mirror")
        if _job(monitor, name)["status"] == _READY:
            return ""  # all was read; the job goes with the rest
        return _end(monitor, name)
    finally:
        end_probe(monitor, name)


def end_probe(monitor: Monitor, name: str, nodes: set[str] | None = None) -> None:
    """Remove what an interrupted :func:`probe` has left; ``nodes``: those that there are, where they are known."""
    if nodes is not None and not nodes & set(_nodes(name)):
        return
    if try_run(monitor, "job-cancel", {"id": name}):
        monitor.wait_until(lambda: _job(monitor, name)["status"] == _DONE, name)
    try_run(monitor, "job-dismiss", {"id": name})
    for node in reversed(_nodes(name)):
        try_run(monitor, "blockdev-del", {"node-name": node})


def finish_job(monitor: Monitor, command: str, arguments: dict[str, Any]) -> None:
    """Run a job that is over at once, and dismiss it. Raises ``CommandRefused``, also for an error of the job."""
    monitor.run(command, arguments)
    error = _end(monitor, arguments["job-id"])
    if error:
        raise CommandRefused(command, error)


def _end(monitor: Monitor, name: str) -> str:
    """Wait for a job's end, and dismiss it. Its error; empty if it had none."""
    monitor.wait_until(lambda: _job(monitor, name)["status"] == _DONE, name)
    error = str(_job(monitor, name).get("error", ""))
    monitor.run("job-dismiss", {"id": name})
    return error


def _job(monitor: Monitor, name: str) -> dict[str, Any]:
    return next(job for job in monitor.run("query-jobs") if job["id"] == name)


def _nodes(name: str) -> tuple[str, str, str]:
    return f"{name}-s", f"{name}-r", f"{name}-n"
