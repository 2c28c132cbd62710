"""The driver: the protocol's methods, put together from inventory, snapshots and restores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from holdfast_agent.errors import HypervisorUnreachable, SnapshotNotRemoved
from holdfast_plugins.api import (
    Journal,
    PlaceKind,
    RestoreDisk,
    RestoreTarget,
    ServedDisk,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    Told,
    VmInfo,
    VmRef,
)

from ..rewriting import is_in_place
from .binding import VsphereRefused
from .connection import Connection
from .instant import INSTANT, UNMOUNT, Instants
from .inventory import Inventory
from .latency import Latencies
from .options import VsphereOptions
from .programs import ToolsGuest
from .promises import SNAPSHOT
from .replaced import REPLACED
from .restores import RESTORE, Restores
from .rights import missing_rights
from .rollbacks import TRACKING, Rollbacks
from .snapshots import Snapshots, Taken
from .transports import Transports
from .transports.hotadd import HOTADD


class VsphereDriver:
    """A ``HypervisorDriver`` for a vCenter, or for an ESXi host by itself. Thread-safe.

    ``secret``: ``user``, ``password``; ``guest_user`` and ``guest_password`` for programs in guests.
    """

    def __init__(self, options: VsphereOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._secret = dict(secret)
        self.connection = Connection(options, secret)
        self._inventory = Inventory(self.connection, options)
        self._transports = Transports(self.connection, self._inventory, options)
        self._latencies = Latencies(self.connection)
        self._snapshots = Snapshots(self.connection, self._inventory, options, self._transports)
        self._restores = Restores(self.connection, self._inventory, options, self._transports)
        self._rollbacks = Rollbacks(self.connection, self._inventory, options, self._transports)
        self._instants = Instants(self.connection, self._inventory, options)

    def connect(self) -> None:
        self.connection.connect()

    def close(self) -> None:
        self._snapshots.close()
        self.connection.close()

    def list_vms(self) -> Sequence[VmRef]:
        with self._reachable():
            return self._inventory.list_vms()

    def vm_info(self, vm: VmRef) -> VmInfo:
        with self._reachable():
            return self._inventory.describe(vm)

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        with self._reachable():
            return self._snapshots.create(request, journal)

    def check_snapshot(self, snapshot: Snapshot) -> None:
        self._snapshots.check(snapshot)

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        self._snapshots.remove(snapshot, journal)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        acts = {
            SNAPSHOT: self._snapshots.fulfil,
            HOTADD: self._transports.hotadd.fulfil,
            TRACKING: self._rollbacks.fulfil,
            RESTORE: self._restores.fulfil,
            REPLACED: self._restores.fulfil_replaced,
        }
        if kind in (INSTANT, UNMOUNT):
            self._instants.fulfil(kind, data)
            return
        if kind not in acts:
            reason = f"{kind!r} is not an obligation of this plugin"
            raise SnapshotNotRemoved(snapshot=data.get("name", "?"), vm="a VM", reason=reason)
        acts[kind](data)

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        with self._reachable():
            return self._restores.prepare(name, info, overwrite, journal)

    def prepare_rollback(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        """As ``RollsBack``."""
        with self._reachable():
            return self._rollbacks.prepare(name, info, since, journal)

    def place_for(self, target: RestoreTarget, disk: RestoreDisk, proxy: str, journal: Journal) -> RestoreDisk:
        """As ``WritesByTransports``."""
        with self._reachable():
            return self._rollbacks.place_for(target, disk, proxy, journal)

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        with self._reachable():
            if is_in_place(target):
                return self._rollbacks.finish(target, journal)
            return self._restores.finish(target, info, journal)

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        with self._reachable():
            if is_in_place(target):
                self._rollbacks.abandon(target, journal)
            else:
                self._restores.abandon(target, journal)

    def instant_clients(self, name: str, info: VmInfo) -> Sequence[str]:
        """As ``MountsInstantly``."""
        with self._reachable():
            return self._instants.clients(name, info)

    def start_instant(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        with self._reachable():
            return self._instants.start(name, info, disks, journal)

    def resume_instant(self, vm: VmRef) -> None:
        """Nothing is to be done: a host comes back to its datastore by itself, and its guests wait for that."""

    def migrate_instant(self, vm: VmRef, journal: Journal, told: Told) -> None:
        with self._reachable():
            self._instants.migrate(vm, journal, told)

    def stop_instant(self, vm: VmRef, journal: Journal) -> None:
        with self._reachable():
            self._instants.stop(vm, journal)

    def programs(self, vm: VmRef) -> ToolsGuest:
        """As ``OffersPrograms``."""
        user, password = self._secret.get("guest_user", ""), self._secret.get("guest_password", "")
        with self._reachable():
            return ToolsGuest(self.connection, self._inventory.find(vm), vm.name, user, password)

    def taken(self, snapshot: Snapshot) -> Taken | None:
        """What is known of a snapshot that exists, for :class:`~.tracker.CbtTracker`."""
        return self._snapshots.taken(snapshot.snapshot_id)

    def near_proxies(self, info: VmInfo, disk_id: str) -> Sequence[Collection[str]]:
        """As ``OffersTransports``."""
        datastore = next((disk.datastore for disk in info.disks if disk.disk_id == disk_id), "")
        with self._reachable():
            return self._transports.near(info.ref, datastore)

    def disk_for(self, snapshot: Snapshot, disk: SnapshotDisk, proxy: str, journal: Journal) -> SnapshotDisk:
        """As ``OffersTransports``."""
        with self._reachable():
            return self._snapshots.disk_for(snapshot, disk, proxy, journal)

    def places(self, kind: PlaceKind) -> Mapping[str, Collection[str]]:
        """As ``OffersPlaces``."""
        with self._reachable():
            return self._inventory.places(kind)

    def latencies_ms(self, datastores: Collection[str]) -> Mapping[str, float]:
        """As ``OffersLoad``."""
        with self._reachable():
            return self._latencies.of(datastores, self._inventory.entities())

    def missing_rights(self) -> Sequence[str]:
        """As ``ChecksRights``."""
        with self._reachable():
            return missing_rights(self.connection, self._inventory.entities())

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except VsphereRefused as error:
            raise HypervisorUnreachable(server=self.connection.server, reason=str(error)) from error
