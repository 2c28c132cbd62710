"""VMs that run from a restore point: their disks are served over NBD until they are copied away from under them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree.ElementTree import Element

from holdfast_agent.errors import (
    AlreadyExists,
    Cancelled,
    DiskUnwritable,
    HoldfastError,
    UsageError,
    VmNotFound,
)
from holdfast_plugins.api import Journal, ServedDisk, Told, VmInfo, VmRef

from .binding import LibvirtRefused
from .connection import Connection
from .definition import disk_elements, parse, target_of
from .domain import Domain
from .new_files import NewFiles, new_token, parse_new_files, safe_part
from .options import LibvirtOptions
from .restored_xml import NewDisk, point_disks
from .restores import Restores

log = logging.getLogger(__name__)

INSTANT = "libvirt-instant"
"""Obligation to remove a VM that never came to run. ``data``: uuid, and the socket of its disks."""
MIGRATION = "libvirt-migration"
"""Obligation to end copies, and to delete files that no VM has come to use. ``data``: uuid, directory, token, files."""
_LOOK_S = 0.5


class Instants:
    """Thread-safe."""

    def __init__(self, connection: Connection, options: LibvirtOptions, restores: Restores) -> None:
        self._connection = connection
        self._options = options
        self._restores = restores

    def start(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        """As ``RunsInstantly.start_instant``."""
        if not disks:
            raise UsageError(reason="a VM without disks cannot be started from a restore point")
        served = [NewDisk(disk.disk_id, disk.socket, "raw", disk.export) for disk in disks]
        identity = str(uuid.uuid4())
        data = {"uuid": identity, "socket": disks[0].socket}
        if self._connection.domain_named(name) is not None:
            raise AlreadyExists(kind="VM", name=name)
        number = journal.promise(INSTANT, data)
        try:
            xml = self._restores.instant_definition(name, identity, info, served)
            domain = self._connection.define(xml)
            domain.start()
        except (LibvirtRefused, HoldfastError) as error:
            with suppress(HoldfastError, LibvirtRefused):
                self._remove_unfinished(data)
                journal.strike(number)
            if isinstance(error, LibvirtRefused):
                raise UsageError(reason=f"libvirt does not start it from the restore point: {error}") from error
            raise
        journal.strike(number)
        return domain.vm

    def resume(self, vm: VmRef) -> None:
        """As ``RunsInstantly.resume_instant``."""
        with suppress(VmNotFound):
            domain = self._connection.domain(vm)
            if domain.active and domain.paused_by_error():
                domain.resume()

    def migrate(self, vm: VmRef, journal: Journal, told: Told) -> None:
        """As ``RunsInstantly.migrate_instant``."""
        domain = self._connection.domain(vm)
        targets = [target_of(element) for element in _served(domain)]
        if not targets:
            return
        if not domain.active:
            raise UsageError(reason=f"the VM {vm.name} does not run; start it, so that its disks can be copied")
        token = new_token()
        image_format = self._options.restore_format if self._connection.is_local else "raw"
        directory = Path(self._options.restore_dir)
        files = {target: f"{safe_part(vm.name)}-{safe_part(target)}-{token}.{image_format}" for target in targets}
        data = NewFiles(directory, token, tuple(files.values())).data() | {"uuid": vm.vm_id}
        number = journal.promise(MIGRATION, data)
        try:
            for target, name in files.items():
                domain.begin_copy(target, str(directory / name), image_format)
            self._see_through(domain, targets, told)
            for target in targets:
                domain.pivot(target)
            disks = [NewDisk(target, str(directory / name), image_format) for target, name in files.items()]
            self._connection.define(point_disks(domain.xml(inactive=True), disks))
        except BaseException as error:
            with suppress(HoldfastError, LibvirtRefused):
                self.fulfil(MIGRATION, data)
                journal.strike(number)
            if isinstance(error, LibvirtRefused):
                place = {"offset_bytes": 0, "length_bytes": 0}
                raise DiskUnwritable(url=str(directory), reason=str(error), **place) from error
            raise
        journal.strike(number)

    def stop(self, vm: VmRef) -> None:
        """As ``RunsInstantly.stop_instant``."""
        try:
            domain = self._connection.domain(vm)
        except VmNotFound:
            return
        if not list(_served(domain)):
            raise UsageError(reason=f"the VM {vm.name} has disks of its own now")
        domain.remove()

    def fulfil(self, kind: str, data: Mapping[str, str]) -> None:
        """Clear up what a dead session left, unless it has come into use."""
        if kind == INSTANT:
            self._remove_unfinished(data)
            return
        files = parse_new_files(data)
        with suppress(VmNotFound):
            domain = self._connection.domain(VmRef(data.get("uuid", ""), ""))
            self._end_copies(domain, {str(files.directory / name) for name in files.names})
        self._restores.delete_unused(files.directory, files.names)

    def _remove_unfinished(self, data: Mapping[str, str]) -> None:
        """A VM that was defined and perhaps started, and that nobody was told of."""
        try:
            domain = self._connection.domain(VmRef(data.get("uuid", ""), ""))
        except VmNotFound:
            return
        if any(_socket(element) == data.get("socket") for element in _served(domain)):
            domain.remove()

    def _see_through(self, domain: Domain, targets: Sequence[str], told: Told) -> None:
        """Until all copies follow their disks. Raises :class:`Cancelled`, and what broke a copy."""
        while True:
            jobs = {target: domain.block_job(target) for target in targets}
            broken = [target for target, job in jobs.items() if job is None]
            if broken:
                raise LibvirtRefused(0, f"the copy of {', '.join(broken)} has ended")
            done = sum(job[0] for job in jobs.values() if job is not None)
            whole = sum(job[1] for job in jobs.values() if job is not None)
            if told(done, whole):
                raise Cancelled(reason="the migration was given up")
            if set(targets) <= copied(domain):
                return
            time.sleep(_LOOK_S)

    @staticmethod
    def _end_copies(domain: Domain, files: set[str]) -> None:
        """Those that have not taken their disk's place."""
        for element in disk_elements(parse(domain.xml())):
            mirror = element.find("mirror/source")
            if mirror is not None and mirror.get("file") in files:
                domain.end_copy(target_of(element))


def _served(domain: Domain) -> list[Element]:
    """The disks that come over NBD, as they are now."""
    return [element for element in disk_elements(parse(domain.xml())) if _socket(element)]


def _socket(element: Element) -> str:
    source = element.find("source")
    if source is None or element.get("type") != "network" or source.get("protocol") != "nbd":
        return ""
    host = source.find("host")
    return host.get("socket", "") if host is not None else ""


def copied(domain: Domain) -> set[str]:
    """The disks whose copies are the same as they are."""
    found = ((target_of(element), element.find("mirror")) for element in disk_elements(parse(domain.xml())))
    return {target for target, mirror in found if mirror is not None and mirror.get("ready") == "yes"}
