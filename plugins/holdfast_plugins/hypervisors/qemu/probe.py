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
_DONE = "concluded"


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
        job = {"job-id": name, "device": window, "target": sink, "sync": "full", "auto-dismiss": False}
        return finish_job(monitor, "blockdev-backup", job, expect=False)
    finally:
        end_probe(monitor, name)


def end_probe(monitor: Monitor, name: str, nodes: set[str] | None = None) -> None:
    """Remove what an interrupted :func:`probe` has left; ``nodes``: those that there are, where they are known."""
    if nodes is not None and not nodes & set(_nodes(name)):
        return
    try_run(monitor, "job-dismiss", {"id": name})
    for node in reversed(_nodes(name)):
        try_run(monitor, "blockdev-del", {"node-name": node})


def finish_job(monitor: Monitor, command: str, arguments: dict[str, Any], *, expect: bool = True) -> str:
    """Run a job that is over at once, and dismiss it. Returns its error; raises it where success is expected."""
    monitor.run(command, arguments)
    name = arguments["job-id"]

    def job() -> dict[str, Any]:
        return next(job for job in monitor.run("query-jobs") if job["id"] == name)

    monitor.wait_until(lambda: job()["status"] == _DONE, command)
    error = str(job().get("error", ""))
    monitor.run("job-dismiss", {"id": name})
    if error and expect:
        raise CommandRefused(command, error)
    return error


def _nodes(name: str) -> tuple[str, str, str]:
    return f"{name}-s", f"{name}-r", f"{name}-n"
