"""Copies of a running VM's disks to files in its folder, each kept the same as its disk until it takes its place."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast_agent.errors import DiskUnwritable, UsageError

from .inventory import Disk, node_names, try_run
from .monitor import Monitor

_NODE = "moved-"
_TOKEN = re.compile(r"[0-9a-f]{16}")


class Mirrors:
    """The copies of one migration. All that it makes, files, nodes and jobs, has ``token`` in its name."""

    def __init__(self, folder: Path, token: str) -> None:
        """Raises :class:`UsageError` for a token that is none."""
        if not _TOKEN.fullmatch(token):
            raise UsageError(reason=f"{token!r} is not of this plugin")
        self._folder = folder
        self._token = token
        self._sources: list[str] = []
        self.files: dict[str, str] = {}

    def begin(self, monitor: Monitor, disks: Sequence[Disk]) -> None:
        """Raises ``CommandRefused``, OSError."""
        for number, disk in enumerate(disks):
            name = f"{_safe(disk.disk_id)}-{self._token}.raw"
            self.files[disk.disk_id] = name
            self._sources.append(disk.node)
            path = self._folder / name
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, disk.size_bytes)
            finally:
                os.close(fd)
            node = self._node(number)
            file = {"driver": "file", "filename": str(path), "discard": "unmap"}
            monitor.run("blockdev-add", {"driver": "raw", "node-name": node, "discard": "unmap", "file": file})
            monitor.run(
                "blockdev-mirror",
                {
                    "job-id": node,
                    "device": disk.node,
                    "target": node,
                    "sync": "full",
                    "copy-mode": "write-blocking",  # else a guest that writes faster than the copy is never caught up
                    "auto-dismiss": False,
                },
            )

    def progress(self, monitor: Monitor) -> tuple[int, int, bool]:
        """(bytes done, bytes in all, whether all copies are the same as their disks). Raises ``DiskUnwritable``."""
        jobs = self._jobs(monitor)
        self._check(jobs)
        done = sum(job["current-progress"] for job in jobs)
        ready = all(job["status"] == "ready" for job in jobs)
        return done, sum(job["total-progress"] for job in jobs), ready

    def complete(self, monitor: Monitor) -> None:
        """Let the copies take their disks' places. Raises ``DiskUnwritable``, ``CommandRefused``."""
        for job in self._jobs(monitor):
            monitor.run("job-complete", {"id": job["id"]})
        monitor.wait_until(lambda: self._concluded(monitor), "job-complete")
        self._check(self._jobs(monitor))
        self._dismiss(monitor)
        for node in self._sources:
            try_run(monitor, "blockdev-del", {"node-name": node})  # refused for one that was not made by -blockdev

    def cancel(self, monitor: Monitor) -> None:
        """End what has not taken its disk's place. Raises ``CommandRefused``."""
        for job in self._jobs(monitor):
            if job["status"] != "concluded":
                try_run(monitor, "job-cancel", {"id": job["id"]})
        monitor.wait_until(lambda: self._concluded(monitor), "job-cancel")
        self._dismiss(monitor)
        for node in node_names(monitor):
            if node.startswith(f"{_NODE}{self._token}-"):
                try_run(monitor, "blockdev-del", {"node-name": node})  # refused for one that is a disk now

    def left(self) -> list[Path]:
        """Its files that are there."""
        return list(self._folder.glob(f"*-{self._token}.raw"))

    def _node(self, number: int) -> str:
        return f"{_NODE}{self._token}-{number}"

    def _jobs(self, monitor: Monitor) -> list[dict[str, Any]]:
        return [job for job in monitor.run("query-jobs") if job["id"].startswith(f"{_NODE}{self._token}-")]

    def _concluded(self, monitor: Monitor) -> bool:
        return all(job["status"] == "concluded" for job in self._jobs(monitor))

    def _check(self, jobs: Sequence[dict[str, Any]]) -> None:
        broken = [job["error"] for job in jobs if job.get("error")]
        if broken or len(jobs) < len(self.files):
            reason = broken[0] if broken else "a copy has ended: was QEMU restarted?"
            raise DiskUnwritable(url=str(self._folder), reason=reason, offset_bytes=0, length_bytes=0)

    def _dismiss(self, monitor: Monitor) -> None:
        for job in self._jobs(monitor):
            try_run(monitor, "job-dismiss", {"id": job["id"]})


def is_ours(disk: Disk) -> bool:
    """Whether a disk is a copy that has taken its place."""
    return disk.node.startswith(_NODE)


def _safe(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z._-]", "_", text).lstrip(".-")[:80] or "disk"
