"""The whole specification of a VM that is made again, for disks that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast_plugins.api import VmInfo, VmRef

from .connection import Connection
from .devices import disks_of
from .inventory import Inventory
from .kept import config_of, parse_kept
from .options import Identity, VsphereOptions
from .placement import Placement, network_backing
from .restored_spec import NewDisk, NewIdentity, plain, restored, with_disks


class Specifications:
    """Thread-safe."""

    def __init__(self, connection: Connection, inventory: Inventory, options: VsphereOptions) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options

    def of(
        self, name: str, info: VmInfo, placement: Placement, files: Mapping[str, str], vmx: str, replaced: VmRef | None
    ) -> Any:
        """``files``: by disk id, and ``vmx``: "[datastore] path" each. ``replaced``: whose place the VM takes.

        Raises ``UsageError`` for a configuration that cannot be read.
        """
        vim, kept, config, keys = self._connection.vim, parse_kept(info.config), None, {}
        if kept is None:
            spec = plain(vim, name)
        else:
            config = config_of(self._connection, kept)
            keys = {disk.disk_id: disk.key for disk in disks_of(vim, config.hardware.device, refuse=False)}
            identity = self._identity(name, config, replaced)
            spec = restored(vim, config, kept.networks, identity, self._backing(placement))
        disks = [NewDisk(keys.get(disk.disk_id, 0), files[disk.disk_id], disk.size_bytes) for disk in info.disks]
        return with_disks(vim, spec, vmx, disks, config)

    def _backing(self, placement: Placement) -> Any:
        def backing(name: str) -> Any:
            network = placement.networks.get(name)
            return None if network is None else network_backing(self._connection, network)

        return backing

    def _identity(self, name: str, config: Any, replaced: VmRef | None) -> NewIdentity:
        """Who is replaced hands on its instance UUID, once it is gone; its addresses are those of the point."""
        wanted, instance = self._options.restore_identity, str(config.instanceUuid or "")
        bios = str(config.uuid or "")
        if replaced is not None:
            return NewIdentity(name, "", "" if wanted is Identity.NEW else bios, own=wanted is not Identity.NEW)
        taken = {vm.vm_id.partition("@")[0] for vm in self._inventory.list_vms()}
        if wanted is Identity.KEEP or (wanted is Identity.AUTO and instance not in taken):
            return NewIdentity(name, instance, bios)
        return NewIdentity(name, own=False)
