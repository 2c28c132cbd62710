"""Restores: volumes are allocated, written by the agent, and then made a VM of.

Names of VMs are not unique in a cluster, and a VM is there as soon as it is made. So the new one is made when its disks
are written, under the name, and only then the one that it replaces is deleted; whichever session comes after a crash in
between completes that.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Iterable

import msgspec

from holdfast_agent.errors import (
    AlreadyExists,
    HypervisorUnreachable,
    PlatformError,
    SnapshotNotRemoved,
    UsageError,
)
from holdfast_plugins.api import Journal, RestoreDisk, RestoreTarget, VmInfo, VmRef

from .cluster import Cluster, ClusterRefused, ListedVm
from .options import ProxmoxOptions
from .volumes import DISK_KEY, VOLUME, device_url, drives

log = logging.getLogger(__name__)

VOLUMES = "proxmox-volumes"
"""Obligation to free volumes of which no VM was made. ``data``: node, storage, vm (its id), token."""
REPLACED = "proxmox-replaced"
"""Obligation to delete the old VM once the new one is there. ``data``: old, uuid (of the old), and as above the new."""
KINDS = (VOLUMES, REPLACED)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # a DNS label: so the cluster wants it
_TOKEN = re.compile(r"[0-9a-f]{12}")
_UUID = re.compile(r"uuid=([0-9a-fA-F-]{36})")
_LEFT_OUT = {"digest", "name", "vmgenid", "parent", "snaptime", "vmstate", "lock", "meta", "template"}


class Kept(msgspec.Struct, frozen=True):
    """What ``VmInfo.config`` holds."""

    kind: str
    version: int
    node: str
    config: dict[str, str]


class Place(msgspec.Struct, frozen=True):
    """Where a restore goes: volumes ``vm-VMID-holdfast-TOKEN-N``, names that nobody else has or will have."""

    node: str
    storage: str
    vmid: int
    token: str

    def volume(self, number: int) -> str:
        return f"vm-{self.vmid}-holdfast-{self.token}-{number}"

    def is_own(self, volume: str) -> bool:
        return volume.startswith(f"vm-{self.vmid}-holdfast-{self.token}-")

    def data(self) -> dict[str, str]:
        return {"node": self.node, "storage": self.storage, "vm": str(self.vmid), "token": self.token}

    @classmethod
    def of(cls, data: dict[str, str]) -> Place:
        """Of an obligation. Raises ``SnapshotNotRemoved`` for what this plugin does not write."""
        node, storage, vm, token = (data.get(key, "") for key in ("node", "storage", "vm", "token"))
        named = VOLUME.fullmatch(f"{storage}:x") and _NAME.fullmatch(node.replace(".", "-"))
        if not (named and re.fullmatch(r"[1-9][0-9]{2,8}", vm) and _TOKEN.fullmatch(token)):
            raise SnapshotNotRemoved(snapshot=token[:100], vm=vm[:100], reason="it is no restore of this plugin")
        return cls(node, storage, int(vm), token)


class Restores:
    """Thread-safe."""

    def __init__(self, cluster: Cluster, options: ProxmoxOptions) -> None:
        self._cluster = cluster
        self._options = options
        self._promises: dict[str, int] = {}
        self._lock = threading.Lock()

    def prepare(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        if not _NAME.fullmatch(name):
            raise UsageError(reason="a VM's name in Proxmox VE is made of letters, digits and '-', at most 63")
        replaced = self._named(name)
        if replaced is not None and not overwrite:
            raise AlreadyExists(kind="VM", name=name)
        if replaced is not None and replaced.status == "running":
            raise UsageError(reason=f"{name} runs; stop it before it is replaced")
        place = self._place(info)
        self._promise(journal, VOLUMES, place.token, place.data())
        disks = []
        try:
            for number, disk in enumerate(info.disks):
                volume = place.volume(number)
                self._cluster.allocate(place.node, place.storage, place.vmid, volume, disk.size_bytes)
                path = self._cluster.volume(place.node, place.storage, volume).path
                disks.append(RestoreDisk(disk.disk_id, disk.name, disk.size_bytes, device_url(path), create=False))
        except BaseException:
            self._undo(place, journal)
            raise
        flag = "replaces" if overwrite else "is-new"
        target_id = f"{flag} {place.token} {place.vmid} {place.node} {place.storage}"
        return RestoreTarget(target_id, VmRef(str(place.vmid), name), tuple(disks))

    def finish(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        flag, place = _target_place(target)
        replaced = self._named(target.vm.name)
        if replaced is not None and flag != "replaces":
            raise AlreadyExists(kind="VM", name=target.vm.name)
        old = self._promise_deletion(replaced, place, journal) if replaced is not None else ""
        self._cluster.create_vm(place.node, place.vmid, self._config(target, info, place, bool(old)))
        self._strike(journal, place.token)
        if old:
            try:
                self._delete_replaced(place, old)
                self._strike(journal, f"replaced {place.token}")
            except (ClusterRefused, PlatformError) as error:
                log.warning("%s is replaced, and could not be deleted yet: %s", target.vm.name, error)
        return target.vm

    def abandon(self, target: RestoreTarget, journal: Journal) -> None:
        _, place = _target_place(target)
        self.fulfil(VOLUMES, place.data())
        self._strike(journal, f"replaced {place.token}")
        self._strike(journal, place.token)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        place = Place.of(data)
        try:
            if kind == VOLUMES:
                self._free_volumes(place)
            else:
                self._delete_replaced(place, f"{data.get('old', '')} {data.get('uuid', '')}")
        except ClusterRefused as error:
            raise SnapshotNotRemoved(snapshot=place.token, vm=str(place.vmid), reason=str(error)) from error

    def _place(self, info: VmInfo) -> Place:
        kept = _kept(info)
        storages = {disk.datastore for disk in info.disks if disk.datastore} if kept is not None else set()
        node = self._options.node or (kept.node if kept is not None else "")
        storage = self._options.storage or (min(storages) if len(storages) == 1 else "")
        if not node or not storage:
            reason = "this VM is of another kind of server, or of several storages; say where it goes by the options "
            raise UsageError(reason=reason + "node and storage of this server")
        return Place.of({"node": node, "storage": storage, "vm": str(self._cluster.next_id()), "token": _token()})

    def _config(self, target: RestoreTarget, info: VmInfo, place: Place, replaces: bool) -> dict[str, str]:
        """The VM as it was, on its new volumes; an identity of its own unless it takes another's place."""
        kept = _kept(info)
        config = dict(kept.config) if kept is not None else {"memory": "1024", "scsihw": "virtio-scsi-pci"}
        left_out = _LEFT_OUT if replaces else _LEFT_OUT | {"smbios1"}
        unused = re.compile(r"unused[0-9]+")
        made = {key: value for key, value in config.items() if key not in left_out and not unused.fullmatch(key)}
        for number, disk in enumerate(target.disks):
            key = disk.disk_id if DISK_KEY.fullmatch(disk.disk_id) else f"scsi{number}"
            options = config.get(key, "").split(",")[1:]
            kept_options = [option for option in options if not option.startswith("size=")]
            made[key] = ",".join([f"{place.storage}:{place.volume(number)}", *kept_options])
        return made | {"name": target.vm.name}

    def _promise_deletion(self, replaced: ListedVm, place: Place, journal: Journal) -> str:
        uuid = _uuid(self._cluster.config(replaced))
        data = place.data() | {"old": str(replaced.vmid), "uuid": uuid}
        self._promise(journal, REPLACED, f"replaced {place.token}", data)
        return f"{replaced.vmid} {uuid}"

    def _delete_replaced(self, place: Place, old: str) -> None:
        """The old VM, if the new one is there and the old one is still the same: ids are given anew."""
        vmid, _, uuid = old.partition(" ")
        listed = {str(vm.vmid): vm for vm in self._cluster.vms()}
        new, replaced = listed.get(str(place.vmid)), listed.get(vmid)
        if new is None or replaced is None or vmid == str(place.vmid) or not self._made_of(new, place):
            return
        if uuid and _uuid(self._cluster.config(replaced)) == uuid:
            self._cluster.delete_vm(replaced)

    def _free_volumes(self, place: Place) -> None:
        listed = next((vm for vm in self._cluster.vms() if vm.vmid == place.vmid), None)
        if listed is not None and self._made_of(listed, place):
            return  # they are a VM's now
        for volume in sorted(self._cluster.volumes_of(place.node, place.storage, place.vmid)):
            if place.is_own(volume):
                self._cluster.free(place.node, place.storage, volume)

    def _made_of(self, vm: ListedVm, place: Place) -> bool:
        volumes: Iterable[str] = drives(self._cluster.config(vm)).values()
        return any(place.is_own(volume.partition(":")[2]) for volume in volumes)

    def _undo(self, place: Place, journal: Journal) -> None:
        """Without hiding the first error: what cannot be freed now stays promised."""
        try:
            self._free_volumes(place)
        except (ClusterRefused, HypervisorUnreachable):
            log.warning("volumes of a restore could not be freed; they stay in the journal", exc_info=True)
            return
        self._strike(journal, place.token)

    def _named(self, name: str) -> ListedVm | None:
        return next((vm for vm in self._cluster.vms() if vm.name == name), None)

    def _promise(self, journal: Journal, kind: str, key: str, data: dict[str, str]) -> None:
        number = journal.promise(kind, data)
        with self._lock:
            self._promises[key] = number

    def _strike(self, journal: Journal, key: str) -> None:
        with self._lock:
            number = self._promises.pop(key, None)
        if number is not None:
            journal.strike(number)


def _kept(info: VmInfo) -> Kept | None:
    """The VM's configuration if it was one of a Proxmox VE."""
    try:
        kept = msgspec.json.decode(info.config, type=Kept)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return kept if kept.kind == "proxmox" and kept.version == 1 else None


def _target_place(target: RestoreTarget) -> tuple[str, Place]:
    flag, token, vm, node, storage = (target.target_id.split(" ") + [""] * 5)[:5]
    return flag, Place.of({"node": node, "storage": storage, "vm": vm, "token": token})


def _uuid(config: dict[str, str]) -> str:
    found = _UUID.search(config.get("smbios1", ""))
    return found[1] if found else ""


def _token() -> str:
    return secrets.token_hex(6)
