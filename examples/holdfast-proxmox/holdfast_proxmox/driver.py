"""The driver: inventory and snapshots. Restores are :mod:`holdfast_proxmox.restores`."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from holdfast_agent.errors import HypervisorUnreachable, SnapshotFailed, SnapshotNotRemoved, UsageError, VmNotFound
from holdfast_plugins.api import (
    Journal,
    RestoreTarget,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

from .cluster import Cluster, ClusterRefused, ListedVm
from .options import ProxmoxOptions
from .restores import KINDS, Restores
from .volumes import disks_of

SNAPSHOT = "proxmox-snapshot"
"""Obligation to remove a snapshot. ``data``: vm (its id), name."""
_OWN = re.compile(r"holdfast-[0-9a-f]{16}")  # at most 40 characters, and the first a letter: so the cluster wants it
_LONGEST_TAG = 200


class ProxmoxDriver:
    """A ``HypervisorDriver`` for one cluster. Thread-safe."""

    def __init__(self, options: ProxmoxOptions, secret: Mapping[str, str]) -> None:
        if not secret.get("token"):
            raise UsageError(reason="the credential `token` is missing: holdfast server add … --secret token")
        self._options = options
        self._cluster = Cluster(options, secret["token"])
        self._restores = Restores(self._cluster, options)
        self._promises: dict[str, int] = {}
        self._lock = threading.Lock()

    def connect(self) -> None:
        with self._reachable():
            self._cluster.vms()

    def close(self) -> None:
        """Nothing is held: a token has no session."""

    def list_vms(self) -> Sequence[VmRef]:
        with self._reachable():
            return [_ref(vm) for vm in self._cluster.vms()]

    def vm_info(self, vm: VmRef) -> VmInfo:
        listed = self._listed(vm)
        with self._reachable():
            config = self._cluster.config(listed)
            disks = disks_of(self._cluster, listed, config)
        return VmInfo(
            ref=_ref(listed),
            disks=tuple(disk.info for disk in disks),
            running=listed.status == "running",
            config=msgspec.json.encode({"kind": "proxmox", "version": 1, "node": listed.node, "config": config}),
            host=listed.node,
        )

    def near_proxies(self, info: VmInfo, disk_id: str) -> Sequence[Collection[str]]:
        """The node's own agent: it has the devices, and it is called as the node."""
        return ((info.host,),)

    def disk_for(self, snapshot: Snapshot, disk: SnapshotDisk, proxy: str, journal: Journal) -> SnapshotDisk:
        return disk

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        listed = self._listed(request.vm)
        with self._failing(listed):
            disks = {disk.key: disk for disk in disks_of(self._cluster, listed, self._cluster.config(listed))}
        missing = [disk_id for disk_id in request.disk_ids if disk_id not in disks]
        if missing:
            raise SnapshotFailed(vm=listed.name, reason=f"it has no disk {missing[0]} any more")
        name = f"holdfast-{secrets.token_hex(8)}"
        number = journal.promise(SNAPSHOT, {"vm": str(listed.vmid), "name": name})
        with self._lock:
            self._promises[name] = number
        with self._failing(listed):
            self._cluster.take_snapshot(listed, name, f"made by Holdfast for {request.tag}"[:_LONGEST_TAG])
        taken = (
            SnapshotDisk(key, key, disks[key].size_bytes, (disks[key].frozen_url(name),), allocation=False)
            for key in request.disk_ids
        )
        return Snapshot(name, _ref(listed), tuple(taken))

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """A thin snapshot breaks when its pool is full: the cluster then shows it no more, or in error."""
        listed = self._listed(snapshot.vm)
        with self._failing(listed):
            if snapshot.snapshot_id not in self._cluster.snapshots(listed):
                raise SnapshotFailed(vm=listed.name, reason=f"its snapshot {snapshot.snapshot_id} is gone")

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        self._remove(snapshot.vm.vm_id, snapshot.snapshot_id)
        with self._lock:
            number = self._promises.pop(snapshot.snapshot_id, None)
        if number is not None:
            journal.strike(number)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        if kind == SNAPSHOT:
            self._remove(data.get("vm", ""), data.get("name", ""))
        elif kind in KINDS:
            self._restores.fulfil(kind, data)
        else:
            raise SnapshotNotRemoved(snapshot=kind, vm="a VM", reason="it is not an obligation of this plugin")

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        with self._reachable():
            return self._restores.prepare(name, info, overwrite, journal)

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        with self._reachable():
            return self._restores.finish(target, info, journal)

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        self._restores.abandon(target, journal)

    def _remove(self, vm_id: str, name: str) -> None:
        if not _OWN.fullmatch(name):
            raise SnapshotNotRemoved(snapshot=name[:100], vm=vm_id[:100], reason="it is no snapshot of this plugin")
        try:
            listed = next((vm for vm in self._cluster.vms() if str(vm.vmid) == vm_id), None)
            if listed is not None and name in self._cluster.snapshots(listed):
                self._cluster.remove_snapshot(listed, name)
        except ClusterRefused as error:
            raise SnapshotNotRemoved(snapshot=name, vm=vm_id, reason=str(error)) from error

    def _listed(self, vm: VmRef) -> ListedVm:
        with self._reachable():
            found = next((listed for listed in self._cluster.vms() if str(listed.vmid) == vm.vm_id), None)
        if found is None:
            raise VmNotFound(vm=vm.name, server=self._options.host)
        return found

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except ClusterRefused as error:
            raise HypervisorUnreachable(server=self._options.host, reason=str(error)) from error

    @contextmanager
    def _failing(self, vm: ListedVm) -> Iterator[None]:
        """What was made before the failure stands in the journal."""
        try:
            yield
        except ClusterRefused as error:
            raise SnapshotFailed(vm=vm.name, reason=str(error)) from error


def _ref(vm: ListedVm) -> VmRef:
    return VmRef(str(vm.vmid), vm.name or f"VM {vm.vmid}")
