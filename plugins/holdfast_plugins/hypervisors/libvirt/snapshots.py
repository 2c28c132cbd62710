"""Making and removing snapshots: which way is taken, what is promised first, and what each leaves to be removed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from holdfast_agent.errors import DiskUnsupported, HoldfastError, SnapshotFailed, SnapshotNotRemoved, VmNotFound
from holdfast_plugins.api import Journal, Snapshot, SnapshotDisk, SnapshotRequest, VmRef

from ..tracking_names import new_tracking_name, parse_tracking_name
from . import backup_job, checkpoints, overlays, resting
from .binding import LibvirtRefused
from .connection import Connection
from .definition import Disk, disks_of, has_io_threads, parse
from .domain import Domain
from .images import ToolFailed
from .liveness import Alive, is_alive
from .options import LibvirtOptions, LibvirtSnapshotOptions, Method
from .promises import SNAPSHOT, Promised, parse_promised
from .watch import Watch

_SAFE_WITH_THREADS = (9, 0, 0)  # docs/qemu.md tells what happens before

log = logging.getLogger(__name__)


class Taken(msgspec.Struct, frozen=True):
    """A snapshot that exists. ``number``: of its obligation. ``alive``: tells others that this process is.

    ``begun``: for those by a backup job; ``since``: what it was asked to count from, by disk.
    """

    promised: Promised
    number: int
    alive: Alive | None
    disks: tuple[Disk, ...]
    begun: backup_job.Begun | None = None
    since: Mapping[str, str] = {}


class Snapshots:
    """All snapshots of one driver. Thread-safe, as its callers never have two hands on one VM."""

    def __init__(self, connection: Connection, options: LibvirtOptions) -> None:
        self._connection = connection
        self._options = options
        self._taken: dict[str, Taken] = {}
        self._resting: dict[str, resting.Resting] = {}
        self._watches: dict[str, Watch] = {}
        self._lock = threading.Lock()

    def create(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        """As ``HypervisorDriver.create_snapshot``."""
        domain = self._connection.domain(request.vm)
        with _failing(request.vm):
            active = domain.active
            disks = self._wanted(domain, request, inactive=not active)
            if not active:
                return self._rest(request.vm, domain, disks)
            backup_job.expect_no_job(domain, self._is_orphan)
            if self._settle_orphans(domain, disks):
                disks = self._wanted(domain, request, inactive=False)
            return self._take(request, domain, disks, journal)

    def check(self, snapshot: Snapshot) -> None:
        """As ``HypervisorDriver.check_snapshot``: a job that somebody ended served what the guest wrote since."""
        taken = self.tracked(snapshot.snapshot_id)
        if isinstance(taken, resting.Resting):
            with _failing(snapshot.vm):
                runs = self._connection.domain(snapshot.vm).active
            if reason := "it was started while its images were read" if runs else taken.why_not_trusted():
                raise SnapshotFailed(vm=snapshot.vm.name, reason=reason)
            return
        if taken is None or taken.begun is None:
            return
        with _failing(snapshot.vm):
            domain = self._connection.domain(snapshot.vm)
            whole = domain.active and all(domain.block_job(disk.target) is not None for disk in taken.disks)
            if not whole or not backup_job.runs(domain, taken.promised.name):
                raise SnapshotFailed(vm=snapshot.vm.name, reason="its backup job was ended before all was read")

    def remove(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        """As ``HypervisorDriver.remove_snapshot``."""
        with self._lock:
            taken = self._taken.get(snapshot.snapshot_id)
            rested = self._resting.pop(snapshot.snapshot_id, None)
            watch = self._watches.pop(snapshot.snapshot_id, None)
        if watch is not None:
            watch.stop()
        if rested is not None:
            rested.release()
        if taken is None:
            return  # it was removed before
        with _not_removing(taken.promised.name, snapshot.vm.name):
            domain = self._end(taken.promised, snapshot.vm)
            if domain is not None and domain.active:
                self._rotate(domain, taken, committed)
        if taken.alive is not None:
            taken.alive.release()
        journal.strike(taken.number)
        with self._lock:
            del self._taken[snapshot.snapshot_id]

    def fulfil(self, data: Mapping[str, str]) -> None:
        """End what a dead session left. Its checkpoint stays: a point that was committed may rest on it."""
        promised = parse_promised(data)
        if promised is None:
            raise SnapshotNotRemoved(snapshot=data.get("name", "?"), vm="a VM", reason="it is not of this plugin")
        with _not_removing(promised.name, promised.vm):
            self._end(promised, VmRef(promised.vm, promised.vm))

    def tracked(self, snapshot_id: str) -> Taken | resting.Resting | None:
        """What is known of a snapshot that exists, for the change tracker."""
        with self._lock:
            return self._taken.get(snapshot_id) or self._resting.get(snapshot_id)

    def release(self) -> None:
        """Let go of what only this process holds."""
        with self._lock:
            for watch in self._watches.values():
                watch.stop()
            for rested in self._resting.values():
                rested.release()
            self._resting.clear()

    # --- making -------------------------------------------------------------------------------------------------------

    def _wanted(self, domain: Domain, request: SnapshotRequest, *, inactive: bool) -> list[Disk]:
        vm = request.vm.name
        told = disks_of(domain.xml(inactive=inactive), lambda target: self._options.skips(vm, target))
        found = {disk.target: disk for disk in told}
        missing = sorted(set(request.disk_ids) - set(found))
        if missing:
            raise SnapshotFailed(vm=vm, reason=f"it has no disk {', '.join(missing)} any more")
        return [found[target] for target in request.disk_ids]

    def _rest(self, vm: VmRef, domain: Domain, disks: Sequence[Disk]) -> Snapshot:
        rested = resting.freeze(self._connection, domain, disks)
        with self._lock:
            self._resting[rested.snapshot_id] = rested
        note = rested.note
        if domain.saved:
            note += "; its memory is saved beside them, and is not backed up"
        made = tuple(
            SnapshotDisk(
                disk.target,
                disk.target,
                domain.capacity_bytes(disk.target),
                (rested.urls[disk.target],),
                rested.stamp(disk.target),
            )
            for disk in disks
        )
        return Snapshot(rested.snapshot_id, vm, made, note)

    def _take(self, request: SnapshotRequest, domain: Domain, disks: list[Disk], journal: Journal) -> Snapshot:
        name = new_tracking_name(request.series)
        method = self._method(request, domain, disks)
        targets = tuple(disk.target for disk in disks)
        promised = Promised(request.vm.vm_id, str(name), method, self._options.scratch_dir, targets)
        number = journal.promise(SNAPSHOT, promised.data())
        alive = None
        try:
            alive = Alive(promised.life()) if self._connection.is_local else None
            if method is Method.BACKUP:
                begun = backup_job.begin(domain, name, request.tag, disks, request.since, self._options)
                taken = Taken(promised, number, alive, tuple(disks), begun, request.since)
                made = self._by_backup(domain, taken, begun)
            else:
                taken = Taken(promised, number, alive, tuple(disks))
                made = self._by_overlays(domain, taken)
        except BaseException:
            self._undo(domain, promised, number, journal)
            if alive is not None:
                alive.release()
            raise
        with self._lock:
            self._taken[promised.name] = taken
            if taken.begun is not None:
                self._watches[promised.name] = Watch(self._connection, request.vm, promised.name)
        return made

    def _is_orphan(self, name: str) -> bool:
        """Whether a snapshot is of a process that is gone; False where that cannot be told."""
        return self._connection.is_local and not is_alive(self._options.scratch(f"{name}.lock"))

    def _settle_orphans(self, domain: Domain, disks: Sequence[Disk]) -> bool:
        """Bring overlays down that were left by a process that is gone. Whether there were any."""
        found = False
        for disk in disks:
            for layer in disk.layers:
                path = Path(layer.place)
                name = path.name.removesuffix(f"-{disk.target}.overlay")
                if (
                    path.parent == Path(self._options.scratch_dir)
                    and parse_tracking_name(name)
                    and self._is_orphan(name)
                ):
                    log.warning("%s has an overlay that a process left which is gone: %s", domain.vm.name, path)
                    overlays.settle(self._connection, domain, {disk.target: path}, self._options.commit_timeout)
                    found = True
        return found

    def _method(self, request: SnapshotRequest, domain: Domain, disks: Sequence[Disk]) -> Method:
        chosen = request.options.method if isinstance(request.options, LibvirtSnapshotOptions) else None
        if chosen is Method.SNAPSHOT and not domain.persistent:
            raise SnapshotFailed(vm=request.vm.name, reason="a transient VM would end with its overlays")
        jobs_do = not has_io_threads(domain.xml()) or self._connection.qemu_version() >= _SAFE_WITH_THREADS
        overlays_do = domain.persistent and all(map(_readable, disks))
        if not jobs_do and (chosen is Method.BACKUP or (chosen is not Method.SNAPSHOT and not overlays_do)):
            reason = "the VM has I/O threads, and QEMU before 9.0 ends when a reader of a disk with one hangs up"
            advice = 'Take method = "snapshot", QEMU 9.0, or the VM\'s <iothreads> away; or back it up while it is off'
            raise DiskUnsupported(disk=disks[0].target, reason=reason, advice=advice)
        if chosen in (Method.BACKUP, Method.SNAPSHOT):
            return chosen
        if not jobs_do:
            return Method.SNAPSHOT
        tracks = any(disk.tracks for disk in disks)
        # On another host overlays need an agent there, and nobody brings them down while the VM is off.
        return Method.SNAPSHOT if overlays_do and not tracks and self._connection.is_local else Method.BACKUP

    def _by_backup(self, domain: Domain, taken: Taken, begun: backup_job.Begun) -> Snapshot:
        made = tuple(
            SnapshotDisk(
                disk.target,
                disk.target,
                domain.capacity_bytes(disk.target),
                (begun.urls[disk.target],),
                taken.promised.name if disk.target in begun.tracked else None,
            )
            for disk in taken.disks
        )
        note = f"backup job; {begun.refused}" if begun.refused else "backup job"
        return Snapshot(taken.promised.name, domain.vm, made, note)

    def _by_overlays(self, domain: Domain, taken: Taken) -> Snapshot:
        urls = {disk.target: overlays.base_url(disk, disk.top) for disk in taken.disks}
        targets = [found.get("dev", "") for found in parse(domain.xml()).iterfind("./devices/disk/target")]
        domain.snapshot_disks(overlays.snapshot_xml(taken.promised.overlays(), targets))
        made = tuple(
            SnapshotDisk(disk.target, disk.target, domain.capacity_bytes(disk.target), (urls[disk.target],))
            for disk in taken.disks
        )
        return Snapshot(taken.promised.name, domain.vm, made, "overlays")

    def _undo(self, domain: Domain, promised: Promised, number: int, journal: Journal) -> None:
        """After a failure, which must not be hidden: what cannot be undone now stays in the journal."""
        try:
            self._end(promised, domain.vm)
            if promised.method is Method.BACKUP:
                checkpoints.drop(domain, promised.name)
        except (HoldfastError, LibvirtRefused, ToolFailed, OSError) as error:
            log.warning("what is left of the snapshot %s stays to be removed: %s", promised.name, error)
        else:
            journal.strike(number)

    # --- removing -----------------------------------------------------------------------------------------------------

    def _end(self, promised: Promised, vm: VmRef) -> Domain | None:
        """Stop the job or bring the overlays down, and remove the files. Idempotent. None: the domain is gone."""
        try:
            domain = self._connection.domain(vm)
        except VmNotFound:
            self._end_without_domain(promised, vm)
            return None
        if promised.method is Method.SNAPSHOT:
            overlays.settle(self._connection, domain, promised.overlays(), self._options.commit_timeout)
        else:
            backup_job.end(domain, promised.name)
        self._remove_left(promised)
        return domain

    def _end_without_domain(self, promised: Promised, vm: VmRef) -> None:
        if promised.method is Method.BACKUP:
            self._remove_left(promised)
            return
        elsewhere = not self._connection.is_local
        left = [str(path) for path in promised.overlays().values() if elsewhere or path.exists()]
        if left:
            reason = f"there is no such VM any more, and what it wrote last is in {', '.join(left)}"
            raise SnapshotNotRemoved(snapshot=promised.name, vm=vm.name, reason=reason)

    def _remove_left(self, promised: Promised) -> None:
        if self._connection.is_local:
            for path in promised.left_files():
                path.unlink(missing_ok=True)

    def _rotate(self, domain: Domain, taken: Taken, committed: bool) -> None:
        name = parse_tracking_name(taken.promised.name)
        if taken.begun is None or name is None:
            return
        if not committed:
            checkpoints.drop(domain, str(name))
        elif taken.begun.tracked:
            checkpoints.rotate(domain, name, taken.disks, taken.since, self._connection.is_local)


def _readable(disk: Disk) -> bool:
    return disk.top.kind in ("file", "block") and bool(disk.top.place)


@contextmanager
def _failing(vm: VmRef) -> Iterator[None]:
    try:
        yield
    except (LibvirtRefused, ToolFailed, OSError, ValueError) as error:
        raise SnapshotFailed(vm=vm.name, reason=str(error)) from error


@contextmanager
def _not_removing(name: str, vm: str) -> Iterator[None]:
    try:
        yield
    except (LibvirtRefused, ToolFailed, OSError, ValueError) as error:
        raise SnapshotNotRemoved(snapshot=name, vm=vm, reason=str(error)) from error
