"""Snapshots of VMs that run: each piece of work on one connection to the monitor, and what is known in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from holdfast_agent.errors import (
    ChangeTrackingLost,
    DiskUnsupported,
    HypervisorUnreachable,
    SnapshotFailed,
    SnapshotNotRemoved,
)
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl
from holdfast_plugins.api import Journal, Snapshot, SnapshotDisk, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.tracking_names import new_tracking_name

from .frozen import Frozen, Outcome, frozen_of
from .inventory import Disk, bitmaps_of, disks_of, has_io_threads, snapshot_nodes
from .monitor import CommandRefused, Monitor, QemuNotRunning, connected
from .options import Address, Fleecing, QemuOptions, host_and_port
from .scratch import Listening
from .snapshots import check, expose, freeze, release, undo
from .tracking import why_lost

_SAFE_WITH_THREADS = (9, 0, 0)
"""Before, a client of an NBD export that hangs up is let go by the I/O thread of its disk, where only the main one may
(blockdev-nbd.c asserts so since 7.2.14), and a disk with one cannot be given another node."""
SNAPSHOT = "qemu-snapshot"
"""Obligation to remove a snapshot. ``data``: vm, address, frozen (a :class:`Frozen` as JSON)."""


class _Live(msgspec.Struct, frozen=True):
    """A snapshot that this process has made. ``copies``: by disk, what its export tells, by the bitmap's own name;
    ``found``: by disk, all bitmaps that there were, as QEMU told them.
    """

    frozen: Frozen
    promise: int
    copies: dict[str, dict[str, str]]
    found: dict[str, dict[str, dict[str, object]]]
    keeps_bitmaps: dict[str, bool]


class RunningSnapshots:
    """Of one server. Thread-safe for different VMs."""

    def __init__(self, options: QemuOptions) -> None:
        self._options = options
        self._live: dict[str, _Live] = {}
        self._lock = threading.Lock()

    def create(self, request: SnapshotRequest, address: Address, journal: Journal) -> Snapshot:
        """As ``HypervisorDriver.create_snapshot``. Also raises :class:`QemuNotRunning`, before anything is made."""
        vm, options = request.vm, self._options
        with connected(vm.name, address, options.timeout) as monitor, _as_failed(vm):
            disks = _wanted(request, monitor)
            tracking = new_tracking_name(request.series)
            frozen = frozen_of(tracking, options.scratch_dir, disks, _fleecing(monitor, options.fleecing))
            found = bitmaps_of(monitor)
            data = {"vm": vm.vm_id, "address": str(address), "frozen": msgspec.json.encode(frozen).decode()}
            promise = journal.promise(SNAPSHOT, data)
            try:
                freeze(monitor, frozen, disks, options.copy_timeout)
                copies = expose(monitor, frozen, disks, self._listening())
            except BaseException:
                if undo(monitor, frozen):
                    journal.strike(promise)
                raise
        live = _Live(
            frozen=frozen,
            promise=promise,
            copies=copies,
            found={disk.disk_id: found.get(disk.node, {}) for disk in disks},
            keeps_bitmaps={disk.disk_id: disk.keeps_bitmaps for disk in disks},
        )
        with self._lock:
            self._live[str(tracking)] = live
        return Snapshot(str(tracking), vm, self._disks(frozen, disks), _note(frozen))

    def check(self, snapshot: Snapshot, address: Address) -> None:
        """As ``HypervisorDriver.check_snapshot``."""
        live = self._find(snapshot)
        if live is None:
            raise SnapshotFailed(vm=snapshot.vm.name, reason="it was removed")
        with connected(snapshot.vm.name, address, self._options.timeout) as monitor, _as_failed(snapshot.vm):
            reason = check(monitor, live.frozen)
        if reason:
            raise SnapshotFailed(vm=snapshot.vm.name, reason=reason)

    def remove(self, snapshot: Snapshot, address: Address, committed: bool, journal: Journal) -> None:
        """As ``HypervisorDriver.remove_snapshot``."""
        live = self._find(snapshot)
        if live is None:
            return  # removed before: only this process has made it, and it forgets none until then
        self._release(snapshot.vm, address, live.frozen, Outcome.COMMITTED if committed else Outcome.FAILED)
        with self._lock:
            self._live.pop(snapshot.snapshot_id, None)
        journal.strike(live.promise)

    def fulfil(self, data: dict[str, str], address: Address | None) -> None:
        """As ``HypervisorDriver.fulfil``. ``address``: of the VM's monitor, if there still is such a VM."""
        vm = data.get("vm", "") or "a VM"
        try:
            frozen = msgspec.json.decode(data.get("frozen", ""), type=Frozen)
            address = address or Address.parse(data.get("address", ""))
        except (msgspec.DecodeError, ValueError) as error:
            reason = f"the promise is damaged: {error}"
            raise SnapshotNotRemoved(snapshot=SNAPSHOT, vm=vm, reason=reason) from error
        self._release(VmRef(vm, vm), address, frozen, Outcome.UNKNOWN)

    def bitmap_of(self, snapshot: Snapshot, disk_id: str, since: str) -> str:
        """The bitmap in the disk's export that tells the changes since ``since``. Raises ``ChangeTrackingLost``."""
        live = self._find(snapshot)
        if live is None:
            raise ChangeTrackingLost(reason=f"the snapshot {snapshot.snapshot_id} is gone")
        copy = live.copies.get(disk_id, {}).get(since)
        if copy is None:
            facts = live.found.get(disk_id, {}).get(since)
            raise ChangeTrackingLost(reason=why_lost(since, facts, live.keeps_bitmaps.get(disk_id, False)))
        return copy

    def _find(self, snapshot: Snapshot) -> _Live | None:
        with self._lock:
            return self._live.get(snapshot.snapshot_id)

    def _release(self, vm: VmRef, address: Address, frozen: Frozen, outcome: Outcome) -> None:
        try:
            with connected(vm.name, address, self._options.timeout) as monitor:
                release(monitor, frozen, outcome)
        except QemuNotRunning:
            frozen.forget()  # all else was in the process that has ended
        except (CommandRefused, HypervisorUnreachable, OSError) as error:
            reason = error.text if isinstance(error, HypervisorUnreachable) else str(error)
            raise SnapshotNotRemoved(snapshot=str(frozen.tracking), vm=vm.name, reason=reason) from error

    def _disks(self, frozen: Frozen, disks: list[Disk]) -> tuple[SnapshotDisk, ...]:
        tracking = str(frozen.tracking)
        return tuple(
            SnapshotDisk(disk.disk_id, disk.disk_id, disk.size_bytes, (self._url(frozen, index),), tracking)
            for index, disk in enumerate(disks)
        )

    def _url(self, frozen: Frozen, index: int) -> str:
        export, listening = (("export", frozen.name("e", index)),), self._listening()
        if not listening.port:
            return str(DiskUrl(DiskScheme.NBD_UNIX, str(frozen.socket), export))
        scheme = DiskScheme.NBDS if listening.creds else DiskScheme.NBD
        return str(DiskUrl(scheme, "", export, listening.host, listening.port))

    def _listening(self) -> Listening:
        if not self._options.nbd:
            return Listening()
        host, port = host_and_port(self._options.nbd)
        return Listening(host, port, self._options.nbd_tls_creds)


def _wanted(request: SnapshotRequest, monitor: Monitor) -> list[Disk]:
    """The disks asked for, in their order. Raises ``SnapshotFailed``."""
    others = snapshot_nodes(monitor)
    if others:
        reason = f"another backup of it is running or was cut off: QEMU has the block node {min(others)}"
        raise SnapshotFailed(vm=request.vm.name, reason=reason)
    disks = {disk.disk_id: disk for disk in disks_of(monitor)}
    missing = sorted(set(request.disk_ids) - set(disks))
    if missing:
        raise SnapshotFailed(vm=request.vm.name, reason=f"it has no disk {', '.join(missing)} any more")
    return [disks[disk_id] for disk_id in request.disk_ids]


def _fleecing(monitor: Monitor, wanted: Fleecing) -> Fleecing:
    """Raises ``DiskUnsupported`` for what would end QEMU, and the guest with it."""
    threads = has_io_threads(monitor)
    if threads and monitor.version < _SAFE_WITH_THREADS:
        found = ".".join(map(str, monitor.version))
        reason = f"the VM has I/O threads, and QEMU {found} ends when a reader of a disk with one hangs up"
        advice = "Start it without iothread=, or with QEMU 9.0 or later; or back it up while it is off"
        raise DiskUnsupported(disk="a disk", reason=reason, advice=advice)
    if wanted is Fleecing.AUTO:
        return Fleecing.JOB if threads else Fleecing.FILTER
    return wanted


def _note(frozen: Frozen) -> str:
    count = len(frozen.places)
    return f"fleecing by a {frozen.fleecing}" + (f"; the {count} disks are of one instant" if count > 1 else "")


@contextmanager
def _as_failed(vm: VmRef) -> Iterator[None]:
    try:
        yield
    except (CommandRefused, OSError) as error:
        raise SnapshotFailed(vm=vm.name, reason=str(error)) from error
