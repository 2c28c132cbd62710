"""Where a restored VM is put: folder, pool, datastores and networks, by the options of the server or as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast_agent.errors import UsageError

from .binding import VsphereRefused
from .connection import Connection
from .datastores import look_at
from .inventory import Inventory, paths_of
from .kept import KeptConfig
from .options import VsphereOptions
from .properties import properties_of, properties_of_all
from .shares import is_share
from .watch import Entity


class Placement(msgspec.Struct, frozen=True):
    """``center``, ``folder``, ``pool``: managed objects. ``datastores``: by the name each disk had, and "" for others.

    ``networks``: by the names that the VM's networks had; None where its card is to be left out.
    """

    center: Any
    center_path: str
    folder: Any
    pool: Any
    datastores: Mapping[str, str]
    networks: Mapping[str, Any]


class Places:
    """Looks places up. Thread-safe."""

    def __init__(self, connection: Connection, inventory: Inventory, options: VsphereOptions) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options

    def choose(self, kept: KeptConfig | None, datastores: Sequence[str], replaced: str) -> Placement:
        """``datastores``: those that the disks were on. ``replaced``: the object id of the VM to be replaced, or "".

        What the options name comes first, then where the replaced VM is, then where the VM was, then anywhere. Raises
        :class:`UsageError` for what is not there.
        """
        entities = self._inventory.entities()
        was = entities.get(replaced)
        folder = self._find(
            entities, ("Folder",), self._options.restore_folder, was.text("parent") if was else "",
            kept.folder if kept else "",
        ) or _first_folder(entities)  # fmt: skip
        center = _center_of(entities, folder)
        pools = ("ResourcePool", "VirtualApp")
        pool = self._find(
            entities, pools, self._options.restore_pool, was.text("resourcePool") if was else "",
            kept.pool if kept else "", center,
        ) or _root_pool(entities, center)  # fmt: skip
        if not folder or not center or not pool:
            raise UsageError(reason="there is no folder or resource pool to restore to that the user can see")
        found = self._connection.object("Datacenter", center)
        told = properties_of(self._connection, found, ("datastore", "network"))
        return Placement(
            found,
            self._inventory.datacenter_of(center),
            self._connection.object("Folder", folder),
            self._connection.object("ResourcePool", pool),
            self._datastores(told.get("datastore") or (), datastores),
            self._networks(told.get("network") or (), kept),
        )

    def _find(
        self, entities: Mapping[str, Entity], kinds: Sequence[str], wanted: str, now: str, was: str, center: str = ""
    ) -> str:
        """An object id by the path that options name, as it is now, or by the path that it was at; "" for none."""
        by_path = {
            next(paths_of(entities, moid), ""): moid
            for moid, entity in entities.items()
            if entity.kind in kinds and (not center or _center_of(entities, moid) == center)
        }
        if wanted and wanted not in by_path:
            raise UsageError(reason=f"there is no {wanted!r} to restore to; see the options of the server")
        return by_path.get(wanted, "") or now or by_path.get(was, "")

    def _datastores(self, known: Sequence[Any], were: Sequence[str]) -> Mapping[str, str]:
        states = {
            state.name: state for state in look_at(self._connection, known) if state.flat and not is_share(state.name)
        }
        wanted = self._options.restore_datastore
        if wanted and wanted not in states:
            raise UsageError(reason=f"there is no datastore {wanted!r} with files, as restore_datastore says")
        if not states:
            raise UsageError(reason="there is no datastore with files to restore to")
        roomiest = max(states.values(), key=lambda state: state.free_bytes).name
        chosen = {name: wanted or (name if name in states else roomiest) for name in were}
        return chosen | {"": wanted or next(iter(chosen.values()), roomiest)}

    def host_for(self, place: Placement) -> Any:
        """The host that runs a VM from a restore point: that which the options name, or the first that may run what is
        in the pool. Raises :class:`UsageError`."""
        entities = self._inventory.entities()
        owner = entities[place.pool._GetMoId()].text("owner")
        hosts = {
            entity.text("name"): moid
            for moid, entity in entities.items()
            if entity.kind == "HostSystem" and entity.text("parent") == owner
        }
        wanted = self._options.instant_host
        if wanted and wanted not in hosts:
            raise UsageError(
                reason=f"instant_host: {wanted!r} is none of the hosts {', '.join(sorted(hosts))} of the pool"
            )
        if not hosts:
            raise UsageError(reason="there is no host in the resource pool that the user can see")
        return self._connection.object("HostSystem", hosts[wanted or min(hosts)])

    def roomiest(self) -> Any:
        """The datastore to which a VM goes that has run from a restore point: ``restore_datastore``, or the one with
        most room. Raises :class:`UsageError`."""
        place = self.choose(None, (), "")
        known = properties_of(self._connection, place.center, ("datastore",)).get("datastore") or ()
        for moid, told in properties_of_all(self._connection, known, ("name",)):
            if str(told["name"]) == place.datastores[""]:
                return self._connection.object("Datastore", moid)
        raise UsageError(reason=f"there is no datastore {place.datastores['']!r} any more")

    def _networks(self, known: Sequence[Any], kept: KeptConfig | None) -> Mapping[str, Any]:
        by_name = {str(properties_of(self._connection, each, ("name",)).get("name")): each for each in known}
        networks: dict[str, Any] = {}
        for name in sorted(set(kept.networks.values())) if kept else ():
            wanted = self._options.restore_networks.get(name, name)
            if wanted and wanted not in by_name:
                advice = f'say restore_networks = {{ "{name}" = "one that is there" }}, or "" for none'
                raise UsageError(reason=f"there is no network {wanted!r} to restore to: {advice}")
            networks[name] = by_name.get(wanted)
        return networks


def network_backing(connection: Connection, network: Any) -> Any:
    """What connects a card to a network: by its name, or by its key where a distributed switch has it."""
    vim = connection.vim
    backings = vim.vm.device.VirtualEthernetCard
    if not isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        name = str(properties_of(connection, network, ("name",))["name"])
        return backings.NetworkBackingInfo(deviceName=name, network=network)
    told = properties_of(connection, network, ("key", "config.distributedVirtualSwitch"))
    switch = told.get("config.distributedVirtualSwitch")
    if switch is None:
        raise VsphereRefused("NotFound", "the distributed switch of a network cannot be seen")
    uuid = str(properties_of(connection, switch, ("uuid",))["uuid"])
    port = vim.dvs.PortConnection(portgroupKey=str(told["key"]), switchUuid=uuid)
    return backings.DistributedVirtualPortBackingInfo(port=port)


def _first_folder(entities: Mapping[str, Entity]) -> str:
    """The root of VMs of the first datacenter: the folder "vm" in it."""
    roots = {
        next(paths_of(entities, moid), ""): moid
        for moid, entity in entities.items()
        if entity.kind == "Folder"
        and entity.text("name") == "vm"
        and getattr(entities.get(entity.text("parent")), "kind", "") == "Datacenter"
    }
    return roots[min(roots)] if roots else ""


def _root_pool(entities: Mapping[str, Entity], center: str) -> str:
    """The pool that all others of a host or cluster are in, of the first in the datacenter."""
    found = {
        next(paths_of(entities, moid), ""): moid
        for moid, entity in entities.items()
        if entity.kind == "ResourcePool"
        and entity.text("parent") == entity.text("owner")
        and _center_of(entities, moid) == center
    }
    return found[min(found)] if found else ""


def _center_of(entities: Mapping[str, Entity], moid: str) -> str:
    for _ in range(len(entities)):
        entity = entities.get(moid)
        if entity is None or entity.kind == "Datacenter":
            return moid if entity else ""
        moid = entity.text("parent")
    return ""
