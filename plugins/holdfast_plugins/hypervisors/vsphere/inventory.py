"""What a server tells of its VMs: who there is, where they are, and what a restore point keeps of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from holdfast_agent.errors import VmNotFound
from holdfast_plugins.api import DiskInfo, PlaceKind, VmInfo, VmRef

from .binding import VsphereRefused
from .connection import Connection
from .devices import disks_of
from .kept import kept_config
from .options import VsphereOptions
from .properties import Properties, properties_of
from .tags import tagged_vms
from .watch import Entity, InventoryWatch

_FACTS = ("name", "parent", "resourcePool", "config", "runtime.powerState", "runtime.host", "network")
_DEEPEST = 64  # folders below each other


class Inventory:
    """Thread-safe."""

    def __init__(self, connection: Connection, options: VsphereOptions) -> None:
        self._connection = connection
        self._options = options
        self._watch = InventoryWatch(connection)

    def list_vms(self) -> Sequence[VmRef]:
        """All VMs but templates."""
        return list(_vms(self.entities()).values())

    def places(self, kind: PlaceKind) -> Mapping[str, Collection[str]]:
        """By VM id where it is. Folders, and pools, are told with all that are above them, by their paths."""
        entities = self.entities()
        vms = _vms(entities)
        if kind is PlaceKind.TAG:
            tagged = tagged_vms(self._connection) if self._connection.is_vcenter else {}
            return {vms[moid].vm_id: tags for moid, tags in tagged.items() if moid in vms}
        return {vm.vm_id: tuple(_places(entities, entities[moid], kind)) for moid, vm in vms.items()}

    def find(self, vm: VmRef) -> Any:
        """The managed object of a VM. Raises ``VmNotFound``."""
        for moid, known in _vms(self.entities()).items():
            if known.vm_id == vm.vm_id:
                return self._connection.object("VirtualMachine", moid)
        raise VmNotFound(vm=vm.name, server=self._connection.server)

    def ref_of(self, moid: str) -> VmRef:
        """Of a VM by its object id. Raises ``VmNotFound``."""
        known = _vms(self.entities())
        if moid not in known:
            raise VmNotFound(vm=moid, server=self._connection.server)
        return known[moid]

    def named(self, name: str) -> Sequence[VmRef]:
        """All VMs of that name; folders may each have one."""
        return [vm for vm in self.list_vms() if vm.name == name]

    def describe(self, vm: VmRef) -> VmInfo:
        """As ``HypervisorDriver.vm_info``. Raises ``VmNotFound`` or ``DiskUnsupported``."""
        found = self.find(vm)
        try:
            facts = properties_of(self._connection, found, _FACTS)
        except VsphereRefused as error:
            if error.fault == "ManagedObjectNotFound":
                raise VmNotFound(vm=vm.name, server=self._connection.server) from error
            raise
        config = facts.get("config")
        if config is None:
            raise VsphereRefused("InvalidState", f"the server tells no configuration of {vm.name}")
        disks = disks_of(self._connection.vim, config.hardware.device, lambda disk: self._options.skips(vm.name, disk))
        told = tuple(DiskInfo(disk.disk_id, disk.label, disk.size_bytes, disk.datastore) for disk in disks)
        ref = VmRef(vm.vm_id, str(facts.get("name", vm.name)))
        running = str(facts.get("runtime.powerState")) == "poweredOn"
        return VmInfo(ref, told, running, self._kept(facts), self._host_name(facts))

    def datacenter_of(self, moid: str) -> str:
        """The path of the datacenter that an object lies in, as URLs of its datastores want it: "dc", "folder/dc"."""
        entities = self.entities()
        for _ in range(_DEEPEST):
            entity = entities.get(moid)
            if entity is None:
                break
            if entity.kind == "Datacenter":
                return next(paths_of(entities, moid)).lstrip("/")
            moid = entity.text("parent")
        raise VsphereRefused("NotFound", f"{moid or 'it'} lies in no datacenter that the user can see")

    def homes(self) -> Mapping[str, str]:
        """By the paths of their configuration files ("[datastore] web/web.vmx") the object ids of all VMs."""
        entities = self.entities()
        return {
            entity.text("config.files.vmPathName"): moid
            for moid, entity in entities.items()
            if entity.kind == "VirtualMachine"
        }

    def datastore_kind(self, name: str) -> str:
        """The type of a datastore as the server calls it ("VMFS", "NFS", "vsan"); "" where there is none."""
        stores = (entity for entity in self._watch.entities().values() if entity.kind == "Datastore")
        return next((store.text("summary.type") for store in stores if store.text("name") == name), "")

    def entities(self) -> Mapping[str, Entity]:
        """Everything, by object id, as it is now.

        A vCenter gives no instance UUID twice, so where two VMs have the same, one is gone and was not told of; then
        all is read anew.
        """
        entities = self._watch.entities()
        if self._connection.is_vcenter and _has_doubles(entities):
            self._watch.forget()
            entities = self._watch.entities()
        return entities

    def _kept(self, facts: Properties) -> bytes:
        networks = {}
        for network in facts.get("network") or ():
            told = properties_of(self._connection, network, ("name",))
            networks[network._GetMoId()] = str(told.get("name", ""))
        kept = kept_config(self._connection, facts["config"])
        places = {path: self._path(facts.get(name)) for path, name in (("folder", "parent"), ("pool", "resourcePool"))}
        return msgspec.json.encode(msgspec.structs.replace(kept, networks=networks, **places))

    def _path(self, entity: Any) -> str:
        return "" if entity is None else next(paths_of(self.entities(), entity._GetMoId()), "")

    def _host_name(self, facts: Properties) -> str:
        host = facts.get("runtime.host")
        known = None if host is None else self.entities().get(host._GetMoId())
        return known.text("name") if known else ""


def _has_doubles(entities: Mapping[str, Entity]) -> bool:
    told = [each.text("config.instanceUuid") for each in entities.values() if each.kind == "VirtualMachine"]
    uuids = [uuid for uuid in told if uuid]
    return len(set(uuids)) < len(uuids)


def _vms(entities: Mapping[str, Entity]) -> dict[str, VmRef]:
    """By object id. A VM is known by its instance UUID, which outlives that it is registered anew.

    A vCenter gives none twice. An ESXi host may have two with the same, which are told apart by their object ids then.
    """
    machines = {
        moid: entity
        for moid, entity in entities.items()
        if entity.kind == "VirtualMachine" and not entity.values.get("config.template")
    }
    count = Counter(entity.text("config.instanceUuid") for entity in machines.values())
    vms = {}
    for moid, entity in machines.items():
        uuid = entity.text("config.instanceUuid")
        vms[moid] = VmRef(uuid if uuid and count[uuid] == 1 else f"{uuid}@{moid}", entity.text("name"))
    return vms


def _places(entities: Mapping[str, Entity], vm: Entity, kind: PlaceKind) -> Iterator[str]:
    host = entities.get(vm.text("runtime.host"))
    match kind:
        case PlaceKind.FOLDER:
            yield from paths_of(entities, vm.text("parent"))
        case PlaceKind.POOL:
            yield from paths_of(entities, vm.text("resourcePool"))
        case PlaceKind.HOST if host is not None:
            yield host.text("name")
        case PlaceKind.CLUSTER if host is not None:
            cluster = entities.get(host.text("parent"))
            if cluster is not None and cluster.kind == "ClusterComputeResource":
                yield cluster.text("name")
        case PlaceKind.DATASTORE:
            stores = (entities.get(store) for store in vm.values.get("datastore") or ())
            yield from (store.text("name") for store in stores if store is not None)


def paths_of(entities: Mapping[str, Entity], moid: str) -> Iterator[str]:
    """The path of an object and of each above it but the root: "/dc/vm/web", "/dc/vm", "/dc"."""
    names: list[str] = []
    for _ in range(_DEEPEST):
        entity = entities.get(moid)
        if entity is None or not entity.text("parent"):
            break
        names.insert(0, entity.text("name"))
        moid = entity.text("parent")
    for length in range(len(names), 0, -1):
        yield "/" + "/".join(names[:length])
