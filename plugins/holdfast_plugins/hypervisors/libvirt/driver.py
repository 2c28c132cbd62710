"""The driver: the protocol's methods, put together from inventory, snapshots and restores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from holdfast_agent.errors import DiskUnsupported, HypervisorUnreachable, SnapshotNotRemoved
from holdfast_plugins.api import Journal, RestoreTarget, ServedDisk, Snapshot, SnapshotRequest, Told, VmInfo, VmRef

from ..rewriting import is_in_place
from . import inventory, rollbacks
from .agent_channel import LibvirtAgentChannel
from .binding import LibvirtRefused
from .connection import Connection
from .instant import INSTANT, MIGRATION, Instants
from .options import LibvirtOptions
from .promises import SNAPSHOT
from .resting import Resting
from .restores import REPLACED, RESTORE, Restores
from .snapshots import Snapshots, Taken


class LibvirtDriver:
    """A ``HypervisorDriver`` for what one libvirt URI leads to. Thread-safe. ``secret``: ``username``, ``password``."""

    def __init__(self, options: LibvirtOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._connection = Connection(options.uri, secret, options.timeout)
        self._snapshots = Snapshots(self._connection, options)
        self._restores = Restores(self._connection, options)
        self._instants = Instants(self._connection, options, self._restores)

    def connect(self) -> None:
        self._connection.connect()
        kind = self._connection.ask(lambda raw: raw.getType())
        if kind != "QEMU":
            raise HypervisorUnreachable(server=self._options.uri, reason=f"it is a hypervisor of the kind {kind}")

    def close(self) -> None:
        self._snapshots.release()
        self._restores.close()
        self._connection.close()

    def list_vms(self) -> Sequence[VmRef]:
        with self._reachable():
            return inventory.list_vms(self._connection)

    def vm_info(self, vm: VmRef) -> VmInfo:
        with self._reachable():
            return inventory.describe(self._connection, self._connection.domain(vm), self._options)

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        return self._snapshots.create(request, journal)

    def check_snapshot(self, snapshot: Snapshot) -> None:
        self._snapshots.check(snapshot)

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        self._snapshots.remove(snapshot, committed, journal)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        if kind == SNAPSHOT:
            self._snapshots.fulfil(data)
        elif kind in (RESTORE, REPLACED):
            self._restores.fulfil(kind, data)
        elif kind in (INSTANT, MIGRATION):
            with self._reachable():
                self._instants.fulfil(kind, data)
        else:
            reason = f"{kind!r} is not an obligation of this plugin"
            raise SnapshotNotRemoved(snapshot=data.get("name", "?"), vm="a VM", reason=reason)

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        with self._reachable():
            return self._restores.prepare(name, info, overwrite, journal)

    def prepare_rollback(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        with self._reachable():
            return rollbacks.prepare(self._connection, name, info, since)

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        with self._reachable():
            if is_in_place(target):
                return rollbacks.finish(self._connection, target)
            return self._restores.finish(target, info, journal)

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        """Of a rollback nothing is to be removed, and nothing can be taken back."""
        with self._reachable():
            if not is_in_place(target):
                self._restores.abandon(target, journal)

    def start_instant(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        with self._reachable():
            return self._instants.start(name, info, disks, journal)

    def resume_instant(self, vm: VmRef) -> None:
        with self._reachable():
            self._instants.resume(vm)

    def migrate_instant(self, vm: VmRef, journal: Journal, told: Told) -> None:
        with self._reachable():
            self._instants.migrate(vm, journal, told)

    def stop_instant(self, vm: VmRef, journal: Journal) -> None:
        with self._reachable():
            self._instants.stop(vm)

    def guest_agent(self, vm: VmRef) -> LibvirtAgentChannel:
        """As ``OffersGuestAgent``."""
        return LibvirtAgentChannel(self._connection, vm)

    def tracked(self, snapshot: Snapshot) -> Taken | Resting | None:
        """What is known of a snapshot that exists, for :class:`~.tracker.CheckpointTracker`."""
        return self._snapshots.tracked(snapshot.snapshot_id)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except LibvirtRefused as error:
            raise HypervisorUnreachable(server=self._options.uri, reason=str(error)) from error
        except ValueError as error:
            advice = "See `virsh dumpxml`"
            raise DiskUnsupported(disk="its definition", reason=str(error), advice=advice) from error
