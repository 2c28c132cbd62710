"""VMs that run from a restore point: their disks are a share of its exporter's, which a host mounts as a datastore.

The VM is made on that datastore with the disks that are there, as a restored one is; the host itself writes its
configuration beside them. Storage vMotion brings it to a datastore of the house.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from holdfast_agent.errors import (
    AlreadyExists,
    Cancelled,
    HoldfastError,
    HypervisorUnreachable,
    SnapshotNotRemoved,
    UsageError,
    VmNotFound,
)
from holdfast_plugins.api import Journal, ServedDisk, Told, VmInfo, VmRef

from .binding import VsphereRefused
from .connection import Connection
from .datastore_files import DatastoreFiles
from .inventory import Inventory
from .kept import parse_kept
from .options import VsphereOptions
from .placement import Placement, Places
from .properties import properties_of
from .restores import check_name, check_sizes, safe_name
from .shares import Shares, is_share, parse_share
from .specification import Specifications
from .tasks import finished

log = logging.getLogger(__name__)

INSTANT = "vsphere-instant"
"""Obligation to remove a VM that never came to run, and to unmount its share. ``data``: see :class:`_Promised`."""
UNMOUNT = "vsphere-unmount"
"""Obligation to unmount a share, unless a VM lies in it. ``data``: see :class:`_Promised`."""
_LOOK_S = 1.0


class _Promised(msgspec.Struct, frozen=True):
    datastore: str


class Instants:
    """Thread-safe for different VMs."""

    def __init__(self, connection: Connection, inventory: Inventory, options: VsphereOptions) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options
        self._places = Places(connection, inventory, options)
        self._files = DatastoreFiles(connection, options.task_timeout)
        self._specifications = Specifications(connection, inventory, options)
        self._shares = Shares(connection, inventory)

    def clients(self, name: str, info: VmInfo) -> Sequence[str]:
        """As ``MountsInstantly.instant_clients``."""
        found = self._inventory.named(name)
        if len(found) == 1 and self._share_of(self._inventory.find(found[0])):
            told = properties_of(self._connection, self._inventory.find(found[0]), ("runtime.host",))
            host = told["runtime.host"]
        else:
            host = self._places.host_for(self._place(info))
        cards = properties_of(self._connection, host, ("config.network.vnic",)).get("config.network.vnic") or ()
        addresses = [str(card.spec.ip.ipAddress) for card in cards if card.spec.ip and card.spec.ip.ipAddress]
        if not addresses:
            raise UsageError(reason="the host that is to run the VM has no address of its own (VMkernel adapter)")
        return sorted({str(ipaddress.ip_address(address)) for address in addresses})

    def start(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        """As ``RunsInstantly.start_instant``."""
        if not disks:
            raise UsageError(reason="a VM without disks cannot be started from a restore point")
        check_name(name)
        check_sizes(info)
        if self._inventory.named(name):
            raise AlreadyExists(kind="VM", name=name)
        shared = {disk.disk_id: parse_share(disk.nfs) for disk in disks}
        share = next(iter(shared.values()))[0]
        place = self._place(info)
        host = self._places.host_for(place)
        promised = _Promised(share.datastore)
        number = journal.promise(INSTANT, msgspec.structs.asdict(promised))
        try:
            self._shares.mount(host, share)
            files = {disk_id: f"[{share.datastore}] {file}" for disk_id, (_, file) in shared.items()}
            machine = self._make(name, info, place, host, files, share.datastore)
            self._run(lambda _: machine.PowerOnVM_Task())
        except BaseException as error:
            with suppress(HoldfastError, VsphereRefused):
                self._remove(promised)
                journal.strike(number)
            if isinstance(error, VsphereRefused):
                raise UsageError(reason=f"the server does not run it from the restore point: {error}") from error
            raise
        journal.strike(number)
        return self._inventory.ref_of(machine._GetMoId())

    def migrate(self, vm: VmRef, journal: Journal, told: Told) -> None:
        """As ``RunsInstantly.migrate_instant``."""
        machine = self._inventory.find(vm)
        datastore = self._share_of(machine)
        if not datastore:
            return
        if not self._connection.is_vcenter:
            reason = (
                f"{self._connection.server} is a host by itself, and Storage vMotion takes a vCenter: shut the VM "
                f"{vm.name} down and copy its disks by the host's own means, or back it up and restore that point"
            )
            raise UsageError(reason=reason)
        promised = _Promised(datastore)
        number = journal.promise(UNMOUNT, msgspec.structs.asdict(promised))
        try:
            self._relocate(machine, vm, told)
        except BaseException as error:
            journal.strike(number)  # the VM goes on from the share
            if isinstance(error, VsphereRefused):
                raise UsageError(reason=f"Storage vMotion of {vm.name} failed: {error}") from error
            raise
        self._shares.unmount(datastore)
        journal.strike(number)

    def stop(self, vm: VmRef, journal: Journal) -> None:
        """As ``RunsInstantly.stop_instant``."""
        try:
            machine = self._inventory.find(vm)
        except VmNotFound:
            return
        datastore = self._share_of(machine)
        if not datastore:
            raise UsageError(reason=f"the VM {vm.name} has disks of its own now")
        promised = _Promised(datastore)
        number = journal.promise(UNMOUNT, msgspec.structs.asdict(promised))
        self._remove(promised)
        journal.strike(number)

    def fulfil(self, kind: str, data: Mapping[str, str]) -> None:
        """Clear up what a dead session left, unless it has come into use."""
        try:
            promised = msgspec.convert(dict(data), _Promised)
        except msgspec.ValidationError:
            promised = _Promised("")
        if not is_share(promised.datastore):
            raise SnapshotNotRemoved(snapshot=kind, vm="a VM", reason="it is not of this plugin")
        try:
            if kind == INSTANT:
                self._remove(promised)
            elif not self._machines_in(promised.datastore):
                self._shares.unmount(promised.datastore)
        except (VsphereRefused, HypervisorUnreachable) as error:
            raise SnapshotNotRemoved(snapshot=promised.datastore, vm="a VM", reason=str(error)) from error

    # --- parts --------------------------------------------------------------------------------------------------------

    def _place(self, info: VmInfo) -> Placement:
        return self._places.choose(parse_kept(info.config), [disk.datastore for disk in info.disks], "")

    def _make(
        self, name: str, info: VmInfo, place: Placement, host: Any, files: Mapping[str, str], datastore: str
    ) -> Any:
        """The VM in a folder of its own on the share: one that was stopped and kept may have left another."""
        folder = f"[{datastore}] {safe_name(name)}-{secrets.token_hex(4)}"
        self._files.make_folder(place.center, folder)
        spec = self._specifications.of(name, info, place, files, f"{folder}/{safe_name(name)}.vmx", None)
        return self._run(lambda _: place.folder.CreateVM_Task(spec, place.pool, host))

    def _share_of(self, machine: Any) -> str:
        """The share that a VM has files on; "" for one that has disks of its own."""
        for store in properties_of(self._connection, machine, ("datastore",)).get("datastore") or ():
            name = str(properties_of(self._connection, store, ("name",)).get("name", ""))
            if is_share(name):
                return name
        return ""

    def _remove(self, promised: _Promised) -> None:
        """Stop and unregister what lies on a share, and unmount it."""
        for machine in self._machines_in(promised.datastore):
            self._unregister(machine)
        self._shares.unmount(promised.datastore)

    def _unregister(self, machine: Any) -> None:
        state = properties_of(self._connection, machine, ("runtime.powerState",)).get("runtime.powerState")
        if str(state) != "poweredOff":
            self._run(lambda _: machine.PowerOffVM_Task())
        self._connection.act(lambda _: machine.UnregisterVM())

    def _machines_in(self, datastore: str) -> list[Any]:
        homes = self._inventory.homes()
        return [
            self._connection.object("VirtualMachine", moid)
            for vmx, moid in homes.items()
            if vmx.startswith(f"[{datastore}] ")
        ]

    def _relocate(self, machine: Any, vm: VmRef, told: Told) -> None:
        """Storage vMotion of all its files. Raises :class:`VsphereRefused`, :class:`Cancelled`."""
        whole = sum(disk.size_bytes for disk in self._inventory.describe(vm).disks)
        target = self._places.roomiest()
        spec = self._connection.vim.vm.RelocateSpec(datastore=target)
        task = self._connection.act(lambda _: machine.RelocateVM_Task(spec))
        given_up = False
        while True:
            state = properties_of(self._connection, task, ("info.state", "info.progress"))
            if str(state.get("info.state")) in ("success", "error"):
                break
            if told(whole * int(state.get("info.progress") or 0) // 100, whole) and not given_up:
                given_up = True
                with suppress(VsphereRefused):  # it is ending, or is at a step that cannot be undone
                    self._connection.act(lambda _: task.CancelTask())
            time.sleep(_LOOK_S)
        try:
            finished(self._connection, task, self._options.task_timeout)
        except VsphereRefused as error:
            if given_up and error.fault == "RequestCanceled":
                raise Cancelled(reason="the migration was given up") from error
            raise
        told(whole, whole)

    def _run(self, deed: Any) -> Any:
        return finished(self._connection, self._connection.act(deed), self._options.task_timeout)
