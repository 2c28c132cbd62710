"""Restoring VMs: room for the disks, and the definition when they are written.

The disks of a restored VM are new files, whose names nobody else gives; a VM that is replaced keeps its own until the
new definition stands. What a crash leaves is told by the definitions: files that none of them names are of a restore
that was not finished.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from holdfast_agent.errors import AlreadyExists, DiskInUse, HoldfastError, SnapshotNotRemoved, UsageError
from holdfast_agent.model.disk_url import file_url
from holdfast_plugins.api import DiskInfo, Journal, RestoreDisk, RestoreTarget, VmInfo, VmRef

from ..foreign_disks import VIRTIO
from ..image_server import ImageServers
from .binding import LibvirtRefused
from .connection import Connection
from .definition import disks_of, parse
from .domain import Domain
from .images import ToolFailed, chain_of
from .inventory import parse_definition
from .new_files import NewFiles, check_places, new_token, not_ours, parse_new_files, safe_part
from .options import Identity, LibvirtOptions
from .restored_xml import NewDisk, NewIdentity, plain, restored

log = logging.getLogger(__name__)

RESTORE = "libvirt-restore"
"""Obligation to delete the files of a restore, if no domain names them. ``data``: directory, token, files, and the
directory of sockets."""
REPLACED = "libvirt-replaced"
"""Obligation to delete an image that was set aside. ``data``: path."""
_NEW_VARIABLES = (
    "its UEFI firmware begins with new variables: the old ones are not in the restore point, or cannot be put there "
    "from this manager's host. If it finds no boot loader, choose the file below EFI/ in the firmware's menu"
)
_ASIDE = re.compile(r"[^/\0]{1,200}\.replaced-[0-9a-f]{16}")
_MOST_NAME_BYTES = 100


class _Prepared(msgspec.Struct, frozen=True):
    """A restore that is under way. ``numbers``: of its obligation."""

    name: str
    token: str
    overwrite: bool
    images: dict[str, Path]
    format: str
    number: int


class Restores:
    """All restores of one driver. Thread-safe."""

    def __init__(self, connection: Connection, options: LibvirtOptions) -> None:
        self._connection = connection
        self._options = options
        self._servers = ImageServers()
        self._prepared: dict[str, _Prepared] = {}

    def close(self) -> None:
        self._servers.close()

    def prepare(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        """As ``HypervisorDriver.prepare_restore``."""
        _check_name(name)
        self._check_free(name, overwrite)
        token = new_token()
        image_format = self._options.restore_format if self._connection.is_local else "raw"
        directory = Path(self._options.restore_dir)
        stems = _stems(name, info.disks)
        images = {disk_id: directory / f"{stem}-{token}.{image_format}" for disk_id, stem in stems.items()}
        files = [path.name for path in images.values()] + [f"{safe_part(name)}-{token}.nvram"]
        data = NewFiles(directory, token, tuple(files)).data() | {"sockets": self._options.scratch_dir}
        number = journal.promise(RESTORE, data)
        prepared = _Prepared(name, token, overwrite, images, image_format, number)
        self._prepared[token] = prepared
        try:
            disks = tuple(self._room(prepared, disk, index) for index, disk in enumerate(info.disks))
        except BaseException:
            self._abandon_anyway(token, journal)
            raise
        return RestoreTarget(token, VmRef("", name), disks, self._notes(info))

    def finish(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        """As ``HypervisorDriver.finish_restore``."""
        prepared = self._prepared[target.target_id]
        for image in prepared.images.values():
            self._servers.stop(image)
        replaced = self._check_free(prepared.name, prepared.overwrite)
        old = _own_images(replaced) if replaced is not None else []
        xml = self._definition(prepared, info, replaced)
        if replaced is not None:
            replaced.forget_saved()
        try:
            domain = self._connection.define(xml)
        except LibvirtRefused as error:
            if self._connection.domain_named(prepared.name) is not None and replaced is None:
                raise AlreadyExists(kind="VM", name=prepared.name) from error
            raise UsageError(reason=f"libvirt does not take the definition: {error}") from error
        journal.strike(prepared.number)
        del self._prepared[target.target_id]
        for image in old:
            self._retire(image, prepared.token, journal)
        return domain.vm

    def abandon(self, target: RestoreTarget, journal: Journal) -> None:
        """As ``HypervisorDriver.abandon_restore``."""
        prepared = self._prepared.get(target.target_id)
        if prepared is None:
            return
        for image in prepared.images.values():
            try:
                self._servers.stop(image)
            except HoldfastError as error:
                log.info("%s", error)  # what it holds is not wanted
        self._delete(Path(self._options.restore_dir), self._files_of(prepared))
        journal.strike(prepared.number)
        del self._prepared[target.target_id]

    def fulfil(self, kind: str, data: Mapping[str, str]) -> None:
        """Delete what a dead session left, unless it has come into use."""
        if kind == REPLACED:
            path = Path(data.get("path", ""))
            check_places(str(path), path)
            if not _ASIDE.fullmatch(path.name):
                raise not_ours(str(path))
            self._delete(path.parent, [path.name])
            return
        files, sockets = parse_new_files(data), Path(data.get("sockets", ""))
        check_places(files.token, sockets)
        self._delete(files.directory, files.names)
        if self._connection.is_local:
            for socket in sockets.glob(f"restore-{files.token}-*.sock"):
                socket.unlink(missing_ok=True)

    def instant_definition(self, name: str, identity: str, info: VmInfo, disks: list[NewDisk]) -> str:
        """The definition of a VM that stands beside the original: another UUID, other addresses, no firmware's memory.

        Raises :class:`UsageError` for a name that no VM can have.
        """
        _check_name(name)
        before = parse_definition(info.config)
        if before is None:
            return plain(name, self._connection.best_kind(), disks, identity)
        return restored(before.xml, NewIdentity(name, identity, own=False), disks, None)

    def delete_unused(self, directory: Path, names: Sequence[str]) -> None:
        """Delete those of the files that no domain names. Raises :class:`SnapshotNotRemoved`."""
        try:
            named = set(_named_images(self._connection))
        except LibvirtRefused as error:
            raise SnapshotNotRemoved(snapshot=str(directory), vm="a migrated VM", reason=str(error)) from error
        unused = [name for name in names if directory / name not in named]
        if unused:
            self._delete(directory, unused)

    # --- room for the disks -------------------------------------------------------------------------------------------

    def _check_free(self, name: str, overwrite: bool) -> Domain | None:
        """The VM that is to be replaced. Raises :class:`AlreadyExists`, or :class:`DiskInUse` when it runs."""
        found = self._connection.domain_named(name)
        if found is not None and not overwrite:
            raise AlreadyExists(kind="VM", name=name)
        if found is not None and found.active:
            raise DiskInUse(url=f"the VM {name}", reason="it runs; shut it down to have it replaced")
        return found

    def _room(self, prepared: _Prepared, disk: DiskInfo, index: int) -> RestoreDisk:
        image = prepared.images[disk.disk_id]
        if prepared.format == "raw":
            return RestoreDisk(disk.disk_id, disk.name, disk.size_bytes, str(file_url(str(image))))
        export = f"{prepared.token}-{index}"
        url = self._servers.create(image, disk.size_bytes, self._options.scratch(f"restore-{export}.sock"), export)
        return RestoreDisk(disk.disk_id, disk.name, disk.size_bytes, url, create=False)

    def _files_of(self, prepared: _Prepared) -> list[str]:
        return [path.name for path in prepared.images.values()] + [f"{safe_part(prepared.name)}-{prepared.token}.nvram"]

    def _abandon_anyway(self, token: str, journal: Journal) -> None:
        """After an error, which must not be hidden: what cannot be removed now stays in the journal."""
        try:
            self.abandon(RestoreTarget(token, VmRef("", ""), ()), journal)
        except HoldfastError as error:
            log.warning("what is left of a restore stays to be removed: %s", error)

    # --- the definition -----------------------------------------------------------------------------------------------

    def _definition(self, prepared: _Prepared, info: VmInfo, replaced: Domain | None) -> str:
        disks = [NewDisk(disk_id, str(path), prepared.format) for disk_id, path in prepared.images.items()]
        before = parse_definition(info.config)
        if before is None:
            return plain(prepared.name, self._connection.best_kind(), disks)
        firmware = self._write_firmware(prepared, before.firmware)
        return restored(before.xml, self._identity(prepared.name, before.xml, replaced), disks, firmware)

    def _notes(self, info: VmInfo) -> tuple[str, ...]:
        before = parse_definition(info.config)
        if before is None:
            return (VIRTIO,)
        has_variables = parse(before.xml).find("./os/nvram") is not None
        return (_NEW_VARIABLES,) if has_variables and not (before.firmware and self._connection.is_local) else ()

    def _identity(self, name: str, xml: str, replaced: Domain | None) -> NewIdentity:
        """Who is replaced hands on its UUID; its addresses are those of the point, which were its own."""
        wanted, uuid = self._options.restore_identity, parse(xml).findtext("uuid") or ""
        if replaced is not None:
            return NewIdentity(name, replaced.vm.vm_id, own=wanted is not Identity.NEW)
        taken = {domain.vm.vm_id for domain in self._connection.domains()}
        if wanted is Identity.KEEP or (wanted is Identity.AUTO and uuid not in taken):
            return NewIdentity(name, uuid)
        return NewIdentity(name, own=False)

    def _write_firmware(self, prepared: _Prepared, content: str) -> Path | None:
        if not content or not self._connection.is_local:
            return None
        path = Path(self._options.restore_dir) / f"{safe_part(prepared.name)}-{prepared.token}.nvram"
        try:
            path.write_bytes(base64.b64decode(content))
        except (OSError, ValueError) as error:
            raise UsageError(reason=f"the firmware's variables cannot be written: {error}") from error
        return path

    # --- what is no longer used ---------------------------------------------------------------------------------------

    def _retire(self, image: Path, token: str, journal: Journal) -> None:
        """Delete an image of the VM that was replaced, if nobody else has it. A failure leaves it where it is."""
        aside = image.with_name(f"{image.name[:200]}.replaced-{token}")
        try:
            if not self._connection.is_local or not image.is_file() or image in self._in_use():
                log.warning("%s is no longer used by the VM that was replaced, and is left where it is", image)
                return
            number = journal.promise(REPLACED, {"path": str(aside)})
            image.rename(aside)
            aside.unlink()
        except (OSError, LibvirtRefused, ToolFailed, ValueError) as error:
            log.warning("%s, of the VM that was replaced, is left where it is: %s", image, error)
            return
        journal.strike(number)

    def _delete(self, directory: Path, names: Sequence[str]) -> None:
        """Delete files of a restore that no domain names. Raises :class:`SnapshotNotRemoved`."""
        paths = [directory / name for name in names]
        if not self._connection.is_local:
            log.warning("%s on the hypervisor's host may be left of a restore", ", ".join(map(str, paths)))
            return
        try:
            named = set(_named_images(self._connection)) if any(path.exists() for path in paths) else set()
            if not named.isdisjoint(paths):
                return  # it was finished after all
            for path in paths:
                path.unlink(missing_ok=True)
        except (OSError, LibvirtRefused, ValueError) as error:
            raise SnapshotNotRemoved(snapshot=str(directory), vm="a restored VM", reason=str(error)) from error

    def _in_use(self) -> set[Path]:
        """All images that a domain needs, those under its overlays too. Raises :class:`ToolFailed`."""
        tops = set(_named_images(self._connection))
        return tops | {below for top in tops if top.is_file() for below in chain_of(top)}


def _named_images(connection: Connection) -> Iterator[Path]:
    """Raises :class:`LibvirtRefused` where that is not known of all."""
    for domain in connection.domains():
        for inactive in (False, True):
            for disk in disks_of(domain.xml(inactive=inactive), refuse=False):
                if disk.top.kind == "volume":
                    raise LibvirtRefused(0, f"the volume that is {disk.target} of {domain.vm.name} cannot be found")
                yield from (Path(layer.place) for layer in disk.layers if layer.place)


def _own_images(domain: Domain) -> list[Path]:
    """The image files that a domain writes to; not what lies under them."""
    disks = disks_of(domain.xml(inactive=True), refuse=False)
    return [Path(disk.top.place) for disk in disks if disk.top.kind == "file" and disk.top.place]


def _check_name(name: str) -> None:
    if not name.strip() or "/" in name or not name.isprintable() or len(name.encode()) > _MOST_NAME_BYTES:
        reason = f"{name!r} cannot be the name of a VM here: no '/', at most {_MOST_NAME_BYTES} bytes"
        raise UsageError(reason=reason)


def _stems(name: str, disks: tuple[DiskInfo, ...]) -> dict[str, str]:
    """By disk the first part of its file's name, all different."""
    stems: dict[str, str] = {}
    for number, disk in enumerate(disks):
        stem = f"{safe_part(name)}-{safe_part(disk.disk_id)[:40]}"
        stems[disk.disk_id] = stem if stem not in stems.values() else f"{stem}-{number}"
    return stems
