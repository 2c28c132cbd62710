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
LATELY_S = 60.0
"""How old an answer may be for where a VM is (names of folders, pools, hosts), and for its object id where a VM that is
gone is noticed and asked for again. A question costs the server more the more it has to look through."""


class _Index:
    """What is looked up in one state of the inventory. ``vms`` by object id, ``by_id`` the object ids by VM id.

    ``doubles``: two VMs have the same instance UUID.
    """

    def __init__(self, entities: Mapping[str, Entity]) -> None:
        self.entities = entities
        self.vms = _vms(entities)
        self.by_id = {vm.vm_id: moid for moid, vm in self.vms.items()}
        told = [each.text("config.instanceUuid") for each in entities.values() if each.kind == "VirtualMachine"]
        uuids = [uuid for uuid in told if uuid]
        self.doubles = len(set(uuids)) < len(uuids)


class Inventory:
    """Thread-safe."""

    def __init__(self, connection: Connection, options: VsphereOptions) -> None:
        self._connection = connection
        self._options = options
        self._watch = InventoryWatch(connection)
        self._index = _Index({})

    def list_vms(self) -> Sequence[VmRef]:
        """All VMs but templates."""
        return list(self._now().vms.values())

    def places(self, kind: PlaceKind) -> Mapping[str, Collection[str]]:
        """By VM id where it is. Folders, and pools, are told with all that are above them, by their paths."""
        index = self._now()
        entities, vms = index.entities, index.vms
        if kind is PlaceKind.TAG:
            tagged = tagged_vms(self._connection) if self._connection.is_vcenter else {}
            return {vms[moid].vm_id: tags for moid, tags in tagged.items() if moid in vms}
        return {vm.vm_id: tuple(_places(entities, entities[moid], kind)) for moid, vm in vms.items()}

    def find(self, vm: VmRef, max_age_s: float = 0.0) -> Any:
        """The managed object of a VM. Raises ``VmNotFound``.

        ``max_age_s``: what was told of it so lately will do, for callers that learn by themselves if it is gone.
        """
        for age_s in (max_age_s, 0.0):
            moid = self._now(age_s).by_id.get(vm.vm_id)
            if moid is not None:
                return self._connection.object("VirtualMachine", moid)
        raise VmNotFound(vm=vm.name, server=self._connection.server)

    def ref_of(self, moid: str) -> VmRef:
        """Of a VM by its object id. Raises ``VmNotFound``."""
        known = self._now().vms
        if moid not in known:
            raise VmNotFound(vm=moid, server=self._connection.server)
        return known[moid]

    def named(self, name: str) -> Sequence[VmRef]:
        """All VMs of that name; folders may each have one."""
        return [vm for vm in self.list_vms() if vm.name == name]

    def describe(self, vm: VmRef) -> VmInfo:
        """As ``HypervisorDriver.vm_info``. Raises ``VmNotFound`` or ``DiskUnsupported``."""
        facts, entities = self._facts_of(vm, LATELY_S), self._now(LATELY_S).entities
        if facts is None:  # it is gone, or registered anew
            facts, entities = self._facts_of(vm), self.entities()
        if facts is None:
            raise VmNotFound(vm=vm.name, server=self._connection.server)
        config = facts.get("config")
        if config is None:
            raise VsphereRefused("InvalidState", f"the server tells no configuration of {vm.name}")
        disks = disks_of(self._connection.vim, config.hardware.device, lambda disk: self._options.skips(vm.name, disk))
        told = tuple(DiskInfo(disk.disk_id, disk.label, disk.size_bytes, disk.datastore) for disk in disks)
        ref = VmRef(vm.vm_id, str(facts.get("name", vm.name)))
        running = str(facts.get("runtime.powerState")) == "poweredOn"
        host = facts.get("runtime.host")
        known = None if host is None else entities.get(host._GetMoId())
        return VmInfo(ref, told, running, self._kept(facts, entities), known.text("name") if known else "")

    def _facts_of(self, vm: VmRef, max_age_s: float = 0.0) -> Properties | None:
        """Those of a VM; None where there is none any more. Raises ``VmNotFound``."""
        try:
            return properties_of(self._connection, self.find(vm, max_age_s), _FACTS)
        except VsphereRefused as error:
            if error.fault != "ManagedObjectNotFound":
                raise
            return None

    def datacenter_of(self, moid: str) -> str:
        """The path of the datacenter that an object lies in, as URLs of its datastores want it: "dc", "folder/dc"."""
        for age_s in (LATELY_S, 0.0):
            entities = self._now(age_s).entities
            at: str = moid
            for _ in range(_DEEPEST):
                entity = entities.get(at)
                if entity is None:
                    break
                if entity.kind == "Datacenter":
                    return next(paths_of(entities, at)).lstrip("/")
                at = entity.text("parent")
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
        for age_s in (LATELY_S, 0.0):
            for entity in self._now(age_s).entities.values():
                if entity.kind == "Datastore" and entity.text("name") == name:
                    return entity.text("summary.type")
        return ""

    def entities(self) -> Mapping[str, Entity]:
        """Everything, by object id, as it is now.

        A vCenter gives no instance UUID twice, so where two VMs have the same, one is gone and was not told of; then
        all is read anew.
        """
        return self._now().entities

    def _now(self, max_age_s: float = 0.0) -> _Index:
        index = self._indexed(max_age_s)
        if self._connection.is_vcenter and index.doubles:
            self._watch.forget()
            index = self._indexed(0.0)
        return index

    def _indexed(self, max_age_s: float) -> _Index:
        """Made anew only when something has changed."""
        entities, index = self._watch.entities(max_age_s), self._index
        if entities is not index.entities:
            self._index = index = _Index(entities)
        return index

    def _kept(self, facts: Properties, entities: Mapping[str, Entity]) -> bytes:
        networks = {}
        for network in facts.get("network") or ():
            told = properties_of(self._connection, network, ("name",))
            networks[network._GetMoId()] = str(told.get("name", ""))
        kept = kept_config(self._connection, facts["config"])
        places = {
            path: next(paths_of(entities, facts[name]._GetMoId()), "")
            for path, name in (("folder", "parent"), ("pool", "resourcePool"))
            if facts.get(name) is not None
        }
        return msgspec.json.encode(msgspec.structs.replace(kept, networks=networks, **places))


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
