"""A hypervisor plugin for tests with real change tracking: a VM whose disk QEMU's storage daemon has open.

Loaded through the plugin host's own door (``[plugins] load = ["lab.storage_plugin"]``). A snapshot is a fleecing
overlay with a bitmap of its own, all of it begun in one transaction, as a backup of a running QEMU is made.
``tracking.json`` in the VM's folder tells the tracker to misbehave.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from holdfast_agent.errors import ChangeTrackingLost, HypervisorUnreachable, SnapshotFailed, SnapshotNotRemoved
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import (
    BackupOnly,
    ChangeTracker,
    DiskBitmap,
    DiskInfo,
    HypervisorCapabilities,
    HypervisorDriver,
    Journal,
    Registry,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

NODE, QMP, NBD, BEHAVIOUR = "disk", "qmp.sock", "nbd.sock", "tracking.json"
GRAIN = 64 << 10
_OVERLAY, _JOB = "fleece", "fleecing"


class Options(msgspec.Struct, frozen=True):
    """``path``: the folder of a :class:`lab.storage_vms.StorageVm`."""

    path: str


class Monitor:
    """One connection to QEMU's monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")
        json.loads(self._lines.readline())  # the greeting
        self.run("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def run(self, command: str, **arguments: object) -> Any:
        """The result of a command. Raises ``SnapshotFailed`` with QEMU's own words."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}))
        self._lines.flush()
        while "event" in (answer := json.loads(self._lines.readline())):
            pass
        if "return" not in answer:
            raise SnapshotFailed(vm="guest", reason=f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def bitmaps(self) -> dict[str, dict[str, Any]]:
        """What the disk's node has, by name; a running job has one without."""
        nodes = {node["node-name"]: node for node in self.run("query-named-block-nodes", flat=True)}
        return {bitmap["name"]: bitmap for bitmap in nodes[NODE].get("dirty-bitmaps", ()) if "name" in bitmap}

    def size_bytes(self) -> int:
        """The disk's, as it is now."""
        nodes = self.run("query-named-block-nodes", flat=True)
        return int(next(node for node in nodes if node["node-name"] == NODE)["image"]["virtual-size"])


class StorageDriver(BackupOnly):
    """The VM ``guest`` with one disk."""

    def __init__(self, options: Options, secret: object) -> None:
        self.folder = Path(options.path)
        self._promises: dict[str, int] = {}

    def connect(self) -> None:
        if not (self.folder / QMP).exists():
            raise HypervisorUnreachable(server=str(self.folder), reason="no monitor")

    def close(self) -> None:
        """Nothing is held."""

    def list_vms(self) -> Sequence[VmRef]:
        return [VmRef("guest", "guest")]

    def vm_info(self, vm: VmRef) -> VmInfo:
        with Monitor(self.folder / QMP) as monitor:
            return VmInfo(vm, (DiskInfo(NODE, NODE, monitor.size_bytes()),), running=True)

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        with Monitor(self.folder / QMP) as monitor:
            names, size_bytes = monitor.bitmaps(), monitor.size_bytes()
            name = f"point-{secrets.token_hex(8)}"  # never used again, so that a lost bitmap is not taken for another
            self._promises[name] = journal.promise("storage-snapshot", {"name": name})
            self._fleece(monitor, size_bytes)
            old = [each for each in names if not names[each].get("inconsistent")]
            actions = [
                {"type": "block-dirty-bitmap-add", "data": _bitmap(name) | {"granularity": GRAIN, "persistent": True}},
                *({"type": "block-dirty-bitmap-disable", "data": _bitmap(each)} for each in old),
                {
                    "type": "blockdev-backup",
                    "data": {"job-id": _JOB, "device": NODE, "target": _OVERLAY, "sync": "none"},
                },
            ]
            monitor.run("transaction", actions=actions)
            export = {"type": "nbd", "id": _OVERLAY, "name": _OVERLAY, "node-name": _OVERLAY}
            monitor.run("block-export-add", **export, bitmaps=[_bitmap(each) for each in old])
        url = f"nbd+unix:{self.folder / NBD}?export={_OVERLAY}"
        return Snapshot(name, request.vm, (SnapshotDisk(NODE, NODE, size_bytes, (url,), change_id=name),))

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        self._remove(snapshot.snapshot_id, committed)
        if snapshot.snapshot_id in self._promises:
            journal.strike(self._promises.pop(snapshot.snapshot_id))

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        self._remove(data["name"], committed=False)

    def _fleece(self, monitor: Monitor, size_bytes: int) -> None:
        overlay = self.folder / "fleece.qcow2"
        base = ["-b", str(self.folder / "disk.qcow2"), "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *base, overlay, str(size_bytes)], check=True)
        file = {"driver": "file", "filename": str(overlay)}
        monitor.run("blockdev-add", driver="qcow2", **{"node-name": _OVERLAY}, file=file, backing=NODE)

    def _remove(self, name: str, committed: bool) -> None:
        try:
            with Monitor(self.folder / QMP) as monitor:
                _stop_fleecing(monitor)
                bitmaps = monitor.bitmaps()
                old = [each for each in bitmaps if each != name]
                if committed or not old or name not in bitmaps:
                    for each in old if name in bitmaps else []:
                        monitor.run("block-dirty-bitmap-remove", **_bitmap(each))
                    return
                kept = [each for each in old if not bitmaps[each].get("inconsistent")]
                for each in kept:
                    monitor.run("block-dirty-bitmap-merge", node=NODE, target=each, bitmaps=[name])
                    monitor.run("block-dirty-bitmap-enable", **_bitmap(each))
                monitor.run("block-dirty-bitmap-remove", **_bitmap(name))
        except SnapshotFailed as error:
            raise SnapshotNotRemoved(snapshot=name, vm="guest", reason=error.text) from error


class StorageTracker:
    """The bitmaps of the disk's node; or whatever ``tracking.json`` says: ``{"extents": [[start, length], …]}``."""

    def __init__(self, driver: StorageDriver) -> None:
        self._folder = driver.folder

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        behaviour = self._folder / BEHAVIOUR
        told = json.loads(behaviour.read_text()) if behaviour.exists() else {}
        if "extents" in told:
            return [Extent(start, length) for start, length in told["extents"]]
        if "bitmap" in told:
            return DiskBitmap(told["bitmap"])
        with Monitor(self._folder / QMP) as monitor:
            found = monitor.bitmaps().get(since)
        if found is None or found.get("inconsistent"):
            raise ChangeTrackingLost(reason=f"the bitmap {since} is {'inconsistent' if found else 'gone'}")
        return DiskBitmap(since)

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        return None


def _bitmap(name: str) -> dict[str, object]:
    return {"node": NODE, "name": name}


def _stop_fleecing(monitor: Monitor) -> None:
    """The export first: after the job's end it would read what is written from then on."""
    with contextlib.suppress(SnapshotFailed):
        monitor.run("block-export-del", id=_OVERLAY, mode="hard")
    while any(export["id"] == _OVERLAY for export in monitor.run("query-block-exports")):
        pass
    with contextlib.suppress(SnapshotFailed):
        monitor.run("block-job-cancel", device=_JOB, force=True)
    while monitor.run("query-jobs"):
        pass
    with contextlib.suppress(SnapshotFailed):
        monitor.run("blockdev-del", **{"node-name": _OVERLAY})


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "storage",
        StorageDriver,
        summary="a disk of QEMU's storage daemon",
        options_type=Options,
        capabilities=HypervisorCapabilities(restore=False),
    )


def holdfast_register_change_trackers(registry: Registry) -> None:
    registry.change_tracker("bitmaps", _tracker, summary="QEMU's dirty bitmaps", hypervisor="storage")


def _tracker(driver: HypervisorDriver) -> ChangeTracker:
    assert isinstance(driver, StorageDriver)
    return StorageTracker(driver)
