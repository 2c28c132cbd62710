"""Snapshots of a running domain by a backup job in pull mode: QEMU serves the disks as they were, over NBD.

The job copies what the guest overwrites to a scratch file, so that the guest never waits for who reads. One call begins
the job on all disks at one instant, together with a checkpoint from which on changes are tracked (libvirt,
formatbackup and formatcheckpoint).
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import msgspec

from holdfast_agent.errors import SnapshotFailed
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl

from ..tracking_names import TrackingName, parse_tracking_name
from .binding import Code, LibvirtRefused
from .checkpoints import checkpoint_xml, covers
from .definition import Disk, parse, unparse
from .domain import Domain
from .options import LibvirtOptions

log = logging.getLogger(__name__)
_BROKEN = re.compile(r"for disk '([^']+)'|of disk '([^']+)'")
_KEEPS_NONE = re.compile(r"bitmap '[^']+' persistent in 'libvirt-([0-9]+)-format'")
"""QEMU's words for an image that cannot keep one: qcow2 of version 2, which libvirt's own storage pools make."""
_BEGIN_TIMEOUT_S, _END_TIMEOUT_S = 60.0, 60.0
_MOST_PORTS_TRIED = 16
_LOST = (Code.CHECKPOINT_INCONSISTENT, Code.NO_DOMAIN_CHECKPOINT)


class Begun(msgspec.Struct, frozen=True):
    """A backup job that runs. ``urls``: by disk; ``tracked``: the disks that the new checkpoint has.

    ``bitmaps``: by disk the change id asked for, which is also the name of the bitmap in its export; ``lost``: why
    there is none. ``refused``: why there is no checkpoint, or none of which disk.
    """

    urls: Mapping[str, str]
    tracked: frozenset[str]
    bitmaps: Mapping[str, str]
    lost: Mapping[str, str]
    refused: str = ""


def begin(
    domain: Domain,
    name: TrackingName,
    tag: str,
    disks: Sequence[Disk],
    since: Mapping[str, str],
    options: LibvirtOptions,
) -> Begun:
    """Begin a job on ``disks``. ``since``: change ids by disk, as ``SnapshotRequest`` has them.

    Whatever tracking was lost, the job begins, without it. Raises :class:`LibvirtRefused` when it cannot.
    """
    plan = _Plan(domain, str(name), tag, disks, options)
    for disk in disks:
        plan.ask_changes(disk, since.get(disk.target))
    return plan.begin()


def expect_no_job(domain: Domain, is_orphan: Callable[[str], bool]) -> None:
    """End a job that nobody waits for any more. ``is_orphan``: whether a snapshot of Holdfast's is of that kind.

    Raises :class:`SnapshotFailed` when the domain has another job: libvirt would let us wait for its end.
    """
    exports = _exports(domain)
    owner = _snapshot_of(exports[0]) if exports else None
    if owner is not None and is_orphan(owner):
        log.warning("%s has a backup job that a process left which is gone: %s", domain.vm.name, owner)
        domain.end_backup(_END_TIMEOUT_S)
    elif exports:
        reason = f"another backup of it is running ({', '.join(exports)}); `virsh domjobabort` would end it"
        raise SnapshotFailed(vm=domain.vm.name, reason=reason)


def runs(domain: Domain, name: str) -> bool:
    """Whether the job of the snapshot ``name`` runs."""
    return name in map(_snapshot_of, _exports(domain))


def end(domain: Domain, name: str) -> None:
    """End the job of the snapshot ``name`` if it runs; any other job is left alone. Idempotent.

    A guest that was paused because the job could not go on goes on itself: QEMU tries its write again.
    """
    if runs(domain, name):
        domain.end_backup(_END_TIMEOUT_S)
        if domain.paused_by_error():
            domain.resume()


def _exports(domain: Domain) -> list[str]:
    """The exports of the job that runs; one that libvirt is just beginning, whoever asked for it, is waited for."""
    domain.wait(
        lambda: domain.backup_xml() is not None or not domain.backup_begins(),
        "the backup job that libvirt is at work on has not begun",
        _BEGIN_TIMEOUT_S,
    )
    told = domain.backup_xml()
    disks = parse(told).iterfind("./disks/disk[@backup='yes']") if told else ()
    return [disk.get("exportname") or disk.get("name") or "?" for disk in disks]


def _snapshot_of(export: str) -> str | None:
    """The snapshot of Holdfast's that an export is of; None for anybody else's."""
    name = export.rpartition("-")[0]
    return name if parse_tracking_name(name) is not None else None


class _Plan:
    """One job's XML, and what is tried when libvirt refuses a part of it."""

    def __init__(self, domain: Domain, name: str, tag: str, disks: Sequence[Disk], options: LibvirtOptions) -> None:
        self._domain, self._name, self._tag, self._disks, self._options = domain, name, tag, disks, options
        self._known = frozenset(domain.checkpoints())
        self._tracked = {disk.target for disk in disks if disk.tracks}
        self._since: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._refused: list[str] = []

    def ask_changes(self, disk: Disk, since: str | None) -> None:
        if since is None:
            return
        if not disk.tracks:
            self._lost[disk.target] = f"an image of the format {disk.top.format} keeps no dirty bitmaps"
        elif since not in self._known or not covers(self._domain, since, disk.target):
            self._lost[disk.target] = f"libvirt knows no checkpoint {since} of it"
        else:
            self._since[disk.target] = since

    def begin(self) -> Begun:
        while True:
            try:
                server = self._begin()
                break
            except LibvirtRefused as error:
                self._give_way(error)
        return Begun(
            urls={disk.target: self._url(disk.target, server) for disk in self._disks},
            tracked=frozenset(self._tracked),
            bitmaps=self._since,
            lost=self._lost,
            refused="; ".join(self._refused),
        )

    def _give_way(self, error: LibvirtRefused) -> None:
        """Leave out what libvirt refused; raises ``error`` where nothing is left to leave out."""
        if error.code in _LOST and self._since:
            match = _BROKEN.search(str(error))
            named = (match[1] or match[2]) if match else ""
            for target in [named] if named in self._since else list(self._since):
                self._lost[target] = str(error)
                del self._since[target]
        elif keeps_none := self._keeps_none(error):
            self._refused.append(
                f"{keeps_none} keeps no dirty bitmaps (qcow2 of version 2; `qemu-img amend -o compat=1.1` mends it)"
            )
            self._tracked.discard(keeps_none)
        elif self._tracked and error.code in (
            Code.CONFIG_UNSUPPORTED,
            Code.OPERATION_UNSUPPORTED,
            Code.OPERATION_INVALID,
        ):
            self._refused.append(f"no checkpoint could be made ({error})")
            self._tracked.clear()
        else:
            raise error

    def _keeps_none(self, error: LibvirtRefused) -> str:
        """The disk, among those that are tracked, of which this says that its image keeps no bitmap; "" for none."""
        match = _KEEPS_NONE.search(str(error))
        tracked = (disk for disk in self._disks if disk.target in self._tracked)
        return next((disk.target for disk in tracked if match is not None and disk.top.index == match[1]), "")

    def _begin(self) -> Mapping[str, str]:
        """Begin the job as it is planned now; returns the NBD server's attributes."""
        servers = self._servers()
        for number, server in enumerate(servers):
            try:
                self._domain.begin_backup(self._backup_xml(server), self._checkpoint_xml())
            except LibvirtRefused as error:
                if "in use" not in str(error) or number + 1 == len(servers):
                    raise
            else:
                return server
        raise AssertionError("there is at least one server")

    def _servers(self) -> list[dict[str, str]]:
        options = self._options
        if not options.nbd_host:
            return [{"transport": "unix", "socket": str(socket_path(options, self._name))}]
        ports = random.sample(options.ports(), min(_MOST_PORTS_TRIED, len(options.ports())))
        tls = {"tls": "yes"} if options.nbd_tls else {}
        return [{"transport": "tcp", "name": options.nbd_host, "port": str(port), **tls} for port in ports]

    def _backup_xml(self, server: Mapping[str, str]) -> str:
        root = Element("domainbackup", mode="pull")
        SubElement(root, "server", dict(server))
        disks = SubElement(root, "disks")
        for disk in self._disks:
            element = SubElement(disks, "disk", name=disk.target, backup="yes", type="file")
            element.set("exportname", export_name(self._name, disk.target))
            since = self._since.get(disk.target)
            element.set("backupmode", "incremental" if since else "full")
            if since:
                element.set("incremental", since)
                element.set("exportbitmap", since)
            SubElement(element, "driver", type="qcow2")
            SubElement(element, "scratch", file=str(scratch_path(self._options, self._name, disk.target)))
        return unparse(root)  # disks that are not listed do not take part

    def _checkpoint_xml(self) -> str | None:
        if not self._tracked:
            return None
        return checkpoint_xml(self._name, self._tag, self._tracked)

    def _url(self, target: str, server: Mapping[str, str]) -> str:
        options = (("export", export_name(self._name, target)),)
        if "socket" in server:
            return str(DiskUrl(DiskScheme.NBD_UNIX, server["socket"], options))
        scheme = DiskScheme.NBDS if "tls" in server else DiskScheme.NBD
        return str(DiskUrl(scheme, "", options, server["name"], int(server["port"])))


def export_name(name: str, target: str) -> str:
    """Of one disk of one snapshot, and of no other ever."""
    return f"{name}-{target}"


def socket_path(options: LibvirtOptions, name: str) -> Path:
    return options.scratch(f"{name}.sock")


def scratch_path(options: LibvirtOptions, name: str, target: str) -> Path:
    return options.scratch(f"{name}-{target}.scratch")
