"""Restoring VMs: room for their disks, and the machine when they are written.

The disks of a restored VM are written into folders of datastores whose names nobody else gives; a VM that is replaced
stays, under another name at the last, until the new one stands. What a crash leaves is told by the inventory: folders
that no VM lies in are of a restore that was not finished.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast_agent.errors import (
    AlreadyExists,
    DiskInUse,
    DiskUnsupported,
    HoldfastError,
    HypervisorUnreachable,
    SnapshotNotRemoved,
    UsageError,
)
from holdfast_plugins.api import DiskInfo, Journal, RestoreDisk, RestoreTarget, VmInfo, VmRef

from ..foreign_disks import LSI_SAS
from .binding import VsphereRefused
from .connection import Connection
from .datastore_files import DatastoreFiles
from .inventory import Inventory
from .kept import parse_kept
from .options import VsphereOptions
from .placement import Placement, Places
from .properties import properties_of
from .replaced import Replaced
from .specification import Specifications
from .tasks import finished
from .transports import Transports, flat_url

log = logging.getLogger(__name__)

RESTORE = "vsphere-restore"
"""Obligation to delete the folders of a restore, unless a VM lies in them. ``data``: see :class:`_Promised`."""
_FOLDER = re.compile(r"\[[^\[\]/\0]{1,255}\] [0-9A-Za-z._-]{1,80}-([0-9a-f]{16})", re.ASCII)
_MOST_NAME = 80  # of a vCenter
_NOT_IN_NAMES = "/\\%"  # which a vCenter writes otherwise


class _Promised(msgspec.Struct, frozen=True):
    """``center``: the object id of the datacenter. ``folders``: JSON, "[datastore] folder" each."""

    token: str
    center: str
    folders: str

    def names(self) -> list[str]:
        """Raises ``ValueError`` for what this plugin has not written so."""
        names = msgspec.json.decode(self.folders, type=list[str])
        matches = [_FOLDER.fullmatch(name) for name in names]
        if not names or not all(match is not None and match[1] == self.token for match in matches):
            raise ValueError("it is not of this plugin")
        return names


class _Prepared(msgspec.Struct, frozen=True):
    """A restore that is under way. ``files``: by disk id, "[datastore] path". ``number``: of its obligation."""

    name: str
    token: str
    placement: Placement
    home: str
    files: Mapping[str, str]
    promised: _Promised
    number: int
    replaced: VmRef | None


class Restores:
    """All restores of one driver. Thread-safe."""

    def __init__(
        self, connection: Connection, inventory: Inventory, options: VsphereOptions, transports: Transports
    ) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options
        self._transports = transports
        self._places = Places(connection, inventory, options)
        self._specifications = Specifications(connection, inventory, options)
        self._files = DatastoreFiles(connection, options.task_timeout)
        self._replaced = Replaced(connection, inventory, options.task_timeout)
        self._prepared: dict[str, _Prepared] = {}
        self._lock = threading.Lock()

    def prepare(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        """As ``HypervisorDriver.prepare_restore``."""
        check_name(name)
        replaced = self._check_free(name, overwrite)
        check_sizes(info)
        kept = parse_kept(info.config)
        place = self._places.choose(kept, [disk.datastore for disk in info.disks], self._object_id(replaced))
        token = secrets.token_hex(8)
        folder = f"{safe_name(name)}-{token}"
        stores = sorted({place.datastores[disk.datastore] for disk in info.disks} | {place.datastores[""]})
        folders = [f"[{store}] {folder}" for store in stores]
        files = {
            disk.disk_id: f"[{place.datastores[disk.datastore]}] {folder}/{safe_name(name)}_{number}.vmdk"
            for number, disk in enumerate(info.disks)
        }
        promised = _Promised(token, place.center._GetMoId(), json.dumps(folders))
        number = journal.promise(RESTORE, msgspec.structs.asdict(promised))
        home = f"[{place.datastores['']}] {folder}"
        prepared = _Prepared(name, token, place, home, files, promised, number, replaced)
        with self._lock:
            self._prepared[token] = prepared
        try:
            for each in folders:
                self._files.make_folder(place.center, each)
            disks = tuple(self._room(prepared, disk) for disk in info.disks)
        except BaseException:
            self._abandon_anyway(token, journal)
            raise
        return RestoreTarget(token, VmRef("", name), disks, (LSI_SAS,) if kept is None else ())

    def finish(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        """As ``HypervisorDriver.finish_restore``."""
        prepared = self._prepared[target.target_id]
        replaced = self._check_free(prepared.name, prepared.replaced is not None)
        vmx = f"{prepared.home}/{safe_name(prepared.name)}.vmx"
        place = prepared.placement
        spec = self._specifications.of(prepared.name, info, place, prepared.files, vmx, replaced)
        with self._replaced.aside(replaced, prepared.token, vmx, journal) as old:
            try:
                machine = self._run(lambda _: place.folder.CreateVM_Task(spec, place.pool))
            except VsphereRefused as error:
                if error.fault == "DuplicateName":
                    raise AlreadyExists(kind="VM", name=prepared.name) from error
                raise UsageError(reason=f"the server does not take the restored VM: {error}") from error
        # From here on the new one stands, whatever goes wrong: the old one does not come back.
        journal.strike(prepared.number)
        with self._lock:
            del self._prepared[target.target_id]
        if old is not None:
            self._replaced.retire(old, machine, journal)
        if self._options.restore_power_on:
            self._power_on(machine, prepared.name)
        return self._inventory.ref_of(machine._GetMoId())

    def abandon(self, target: RestoreTarget, journal: Journal) -> None:
        """As ``HypervisorDriver.abandon_restore``."""
        prepared = self._prepared.get(target.target_id)
        if prepared is None:
            return
        self._delete(prepared.promised)
        journal.strike(prepared.number)
        with self._lock:
            del self._prepared[target.target_id]

    def fulfil(self, data: Mapping[str, str]) -> None:
        """Delete what a dead session left, unless it has come into use."""
        try:
            promised = msgspec.convert(dict(data), _Promised)
            promised.names()
        except ValueError as error:
            raise SnapshotNotRemoved(snapshot=data.get("token", "?"), vm="a VM", reason=str(error)) from error
        self._delete(promised)

    def fulfil_replaced(self, data: Mapping[str, str]) -> None:
        """Finish or undo the last step of a replacement that a dead session left in the middle."""
        self._replaced.fulfil(data)

    # --- room for the disks -------------------------------------------------------------------------------------------

    def _check_free(self, name: str, overwrite: bool) -> VmRef | None:
        """The VM that is to be replaced. Raises :class:`AlreadyExists`, or :class:`DiskInUse` when it runs."""
        found = self._inventory.named(name)
        if found and not overwrite:
            raise AlreadyExists(kind="VM", name=name)
        if len(found) > 1:
            raise UsageError(reason=f"there are {len(found)} VMs called {name}: it cannot be told which to replace")
        for vm in found:
            told = properties_of(self._connection, self._inventory.find(vm), ("runtime.powerState",))
            if str(told.get("runtime.powerState")) != "poweredOff":
                raise DiskInUse(url=f"the VM {name}", reason="it runs; shut it down to have it replaced")
        return found[0] if found else None

    def _object_id(self, vm: VmRef | None) -> str:
        return "" if vm is None else str(self._inventory.find(vm)._GetMoId())

    def _room(self, prepared: _Prepared, disk: DiskInfo) -> RestoreDisk:
        place, file = prepared.placement, prepared.files[disk.disk_id]
        self._files.make_disk(place.center, file, disk.size_bytes)
        store, _, path = file[1:].partition("] ")
        url = flat_url(self._options.origin, place.center_path, store, path)
        access = (self._transports.access(),)
        return RestoreDisk(disk.disk_id, disk.name, disk.size_bytes, url, create=False, access=access)

    def _delete(self, promised: _Promised) -> None:
        """Delete the folders of a restore that no VM lies in. Raises :class:`SnapshotNotRemoved`."""
        try:
            used = self._inventory.homes()
            for folder in promised.names():
                if not any(home.startswith(f"{folder}/") for home in used):
                    self._files.delete(self._connection.object("Datacenter", promised.center), folder)
        except (VsphereRefused, HypervisorUnreachable) as error:
            raise SnapshotNotRemoved(snapshot=promised.token, vm="a restored VM", reason=str(error)) from error

    def _abandon_anyway(self, token: str, journal: Journal) -> None:
        """After an error, which must not be hidden: what cannot be removed now stays in the journal."""
        try:
            self.abandon(RestoreTarget(token, VmRef("", ""), ()), journal)
        except HoldfastError as error:
            log.warning("what is left of a restore stays to be removed: %s", error)

    # --- the machine --------------------------------------------------------------------------------------------------

    def _power_on(self, machine: Any, name: str) -> None:
        try:
            self._run(lambda _: machine.PowerOnVM_Task())
        except (VsphereRefused, HypervisorUnreachable) as error:
            log.warning("%s is restored, and could not be started: %s", name, error)

    def _run(self, deed: Any) -> Any:
        return finished(self._connection, self._connection.act(deed), self._options.task_timeout)


def check_name(name: str) -> None:
    """Raises :class:`UsageError`."""
    wrong = not name.strip() or not name.isprintable() or any(each in name for each in _NOT_IN_NAMES)
    if wrong or len(name) > _MOST_NAME:
        reason = f"{name!r} cannot be the name of a VM here: none of '/', '\\' and '%', at most {_MOST_NAME} characters"
        raise UsageError(reason=reason)


def check_sizes(info: VmInfo) -> None:
    """Raises :class:`DiskUnsupported`."""
    for disk in info.disks:
        if disk.size_bytes % 1024 or not disk.size_bytes:
            raise DiskUnsupported(
                disk=disk.disk_id, reason=f"it has {disk.size_bytes} bytes, and disks of vSphere have whole KiB",
                advice="Restore it to a file or to another server",
            )  # fmt: skip


def safe_name(text: str) -> str:
    """What a VM's files and folder are called."""
    return re.sub(r"[^0-9A-Za-z._-]", "_", text).lstrip(".-")[:60] or "vm"
