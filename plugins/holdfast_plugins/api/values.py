"""Values that cross between the manager and a hypervisor plugin."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.geometry import Extent


class ConsistencyLevel(StrEnum):
    """A point's data is as after a power cut, has clean file systems, or has applications at rest; the best last."""

    CRASH = "crash"
    FILE_SYSTEM = "file-system"
    APPLICATION = "application"


class VmRef(msgspec.Struct, frozen=True):
    """A VM: the hypervisor's stable id, which survives a rename, and the name that people use."""

    vm_id: str
    name: str


class DiskInfo(msgspec.Struct, frozen=True):
    """A virtual disk. ``disk_id`` is stable within its VM and survives other disks being added or removed.

    ``name``: for people, and for the files of a restore. ``size_bytes``: as the guest sees it, exact.
    ``datastore``: names where it lies, so that not too many are read there at once; "" if that is all the same.
    """

    disk_id: str
    name: str
    size_bytes: int
    datastore: str = ""


class VmInfo(msgspec.Struct, frozen=True):
    """A VM as the inventory tells it. ``config`` is the driver's own description of the VM, enough to create it anew.

    It is kept sealed in the restore point and handed back at restore. At most 4 MiB. ``running``: whether a guest runs.
    ``host``: names the host that runs it, so that not too many of one are backed up at once; "" if it is all the same.
    ``left_out``: what people may take for a part of the VM and no restore point of it holds, a phrase for each with the
    reason. Each backup warns of it. What its owner has left out by the options does not belong here.
    """

    ref: VmRef
    disks: tuple[DiskInfo, ...]
    running: bool = False
    config: bytes = b""
    host: str = ""
    left_out: tuple[str, ...] = ()


class SnapshotRequest(msgspec.Struct, frozen=True):
    """What the session wants. ``tag`` names the session's job and id: by it the snapshot is told from foreign ones.

    ``disk_ids`` are the disks that take part. ``options`` is the job's table of snapshot options for this driver,
    converted to the driver's ``snapshot_options_type``.

    ``series`` names the restore points among which this one looks for its base: those of one repository. Several
    series of a VM go on independently: the end of one's session must not take from another what its tracking rests on.
    ``since``: the change ids of the base point by disk id, for hypervisors that want to know them when the snapshot is
    made; a disk that has none, or no base, is left out. The tracker is asked later, and its answer counts.
    """

    vm: VmRef
    tag: str
    disk_ids: tuple[str, ...]
    options: Any = None
    series: str = ""
    since: Mapping[str, str] = {}


class SnapshotDisk(msgspec.Struct, frozen=True):
    """One disk frozen at the instant of the snapshot.

    ``size_bytes``: of the frozen disk as the guest sees it, exact; of an image format the virtual size. ``urls``: disk
    URLs that an agent can open (:mod:`holdfast_agent.model.disk_url`), best transport first, at least one. Each stands
    for this frozen disk until the snapshot is removed: movers open it again when a connection is lost. ``change_id``:
    names this instant to the driver's change tracker, or None. ``allocation``: whether ``urls`` tell holes from data,
    so that the mode `allocation` can be used for a first full. ``access``: secrets for servers that ``urls`` name, as a
    session with the hypervisor gave them. They go to the proxy with its order, over the sealed control channel, and are
    neither stored nor logged.
    """

    disk_id: str
    name: str
    size_bytes: int
    urls: tuple[str, ...]
    change_id: str | None = None
    allocation: bool = True
    access: tuple[DiskAccess, ...] = ()


class DiskBitmap(msgspec.Struct, frozen=True):
    """Says that a dirty bitmap of QEMU tells the changes: ``qemu:dirty-bitmap:NAME`` of the disk's own NBD export.

    The proxy asks it for itself, so that extents without number need not pass through the manager.
    """

    name: str


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot that exists. ``snapshot_id`` is what ``remove_snapshot`` takes; ``note`` is shown to people.

    ``consistency``: what the hypervisor itself achieved, where it brings guests to rest for its snapshots. A restore
    point has the better of this and what a guest processor achieved.
    ``warning``: in what it is less than a snapshot should be, such as disks of several instants. The session warns of
    it, and what the guest was brought to does not count: the point is "crash" then, or fails where more is required.
    """

    snapshot_id: str
    vm: VmRef
    disks: tuple[SnapshotDisk, ...]
    note: str = ""
    consistency: ConsistencyLevel = ConsistencyLevel.CRASH
    warning: str = ""


class RestoreDisk(msgspec.Struct, frozen=True):
    """One disk to be restored: where the writer puts it. ``create``: the writer makes it; else it exists already.

    ``size_bytes``: of what is written to. ``url``: a disk URL that agents can write.
    ``access``: secrets for the server that ``url`` names, as in :class:`SnapshotDisk`.

    Of a rollback: ``changed``: ascending areas that may differ from the point, where change tracking has told; None:
    nothing has, or the URL names a bitmap. ``writers``: the agents by name that alone can write there, the best first;
    empty: any.
    """

    disk_id: str
    name: str
    size_bytes: int
    url: str
    create: bool = True
    access: tuple[DiskAccess, ...] = ()
    changed: tuple[Extent, ...] | None = None
    writers: tuple[str, ...] = ()


class RestoreTarget(msgspec.Struct, frozen=True):
    """What a driver prepared for a restore. ``target_id`` is what ``finish_restore`` and ``abandon_restore`` take.

    ``notes``: sentences for people, which the session tells: what the VM needs before it boots, say.
    """

    target_id: str
    vm: VmRef
    disks: tuple[RestoreDisk, ...]
    notes: tuple[str, ...] = ()


class Journal(Protocol):
    """The session's obligations as a driver sees them. Calls are durable when they return. Thread-safe."""

    def promise(self, kind: str, data: dict[str, str]) -> int:
        """Write down, before the act, how something that is about to be made will be removed.

        ``kind`` and ``data`` come back to ``HypervisorDriver.fulfil`` after a crash: short words, no secrets, enough to
        find the thing again in years. Returns the obligation's number. Raises what keeps it from being written; then
        nothing may be made.
        """
        ...

    def strike(self, number: int) -> None:
        """What ``number`` stands for is gone. Idempotent. What is never struck off, the next session fulfils."""
        ...
