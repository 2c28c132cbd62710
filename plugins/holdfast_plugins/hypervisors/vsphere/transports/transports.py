"""All ways to a disk together: chosen for a proxy, prepared, given as URLs, and let go of."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from holdfast_agent.errors import DiskUnsupported, HoldfastError, SnapshotFailed, UsageError
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import Journal, VmRef

from ..binding import VsphereRefused
from ..connection import Connection
from ..devices import Disk
from ..inventory import Inventory
from ..options import ProxyOptions, Transport, VsphereOptions
from .choice import Choice, DiskFacts, choose, nearest, turned, writing
from .hotadd import HotAdd
from .urls import device_url, flat_url, mounted_url, vddk_url

log = logging.getLogger(__name__)


class Source(msgspec.Struct, frozen=True):
    """A disk that a snapshot froze. ``name``: of the snapshot; ``machine`` and ``snapshot``: managed objects.

    ``snapshot`` None: the disk itself, of a VM that is off, which the restore ``name`` writes.
    """

    name: str
    vm: VmRef
    machine: Any
    snapshot: Any
    disk: Disk

    @property
    def is_written(self) -> bool:
        return self.snapshot is None


class Transports:
    """Thread-safe."""

    def __init__(self, connection: Connection, inventory: Inventory, options: VsphereOptions) -> None:
        self._connection = connection
        self._inventory = inventory
        self._options = options
        self._attempts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()
        self.hotadd = HotAdd(connection, inventory, options.task_timeout)

    def check(self, vm: VmRef, disks: Sequence[Disk]) -> None:
        """Whether some proxy could read each disk if a snapshot froze it. Raises ``DiskUnsupported``."""
        proxies = [ProxyOptions(), *self._options.proxies.values()]
        for disk in disks:
            facts = self._facts(vm, disk)
            choices = [choose(self._options.transports, facts, proxy) for proxy in proxies]
            if not any(choice.ways for choice in choices):
                raise DiskUnsupported(
                    disk=f"{vm.name}/{disk.disk_id}",
                    reason=choices[0].reason,
                    advice="Remove the snapshots of the VM, or set a proxy up for hotadd or nbd (docs/vsphere.md)",
                )

    def near(self, vm: VmRef, datastore: str) -> tuple[tuple[str, ...], ...]:
        """As ``OffersTransports.near_proxies``."""
        if not self._options.proxies:
            return ()
        facts = DiskFacts(vm.name, vm.vm_id, datastore, self._inventory.datastore_kind(datastore))
        return nearest(self._options.transports, facts, self._options.proxies)

    def writers(self, source: Source) -> tuple[tuple[str, ...], str]:
        """Agents by name that can write to a disk that is there, the best first, and the URL by which that one would.

        Raises ``UsageError``.
        """
        best = {name: self._choice(source, name).ways[:1] for name in sorted(self._options.proxies)}
        able = [name for way in self._options.transports for name in best if best[name] == (way,)]
        if not able:
            advice = "set one up for hotadd, nfs, san or nbd (docs/vsphere.md), or restore with --overwrite"
            raise UsageError(reason=f"no proxy can write to a part of {source.vm.name}/{source.disk.disk_id}: {advice}")
        return tuple(able), self._url(best[able[0]][0], source, self._proxy(able[0]))

    def urls(self, source: Source) -> tuple[tuple[str, ...], tuple[DiskAccess, ...]]:
        """The disk's URLs before it is known who reads it, and the secrets for them."""
        facts, known = self._facts(source.vm, source.disk), self._options.proxies.values()
        for proxy in (ProxyOptions(), *known):
            ways = choose(self._options.transports, facts, proxy).ways
            if ways:
                return self._with_access(tuple(self._url(way, source, proxy) for way in ways))
        raise SnapshotFailed(vm=source.vm.name, reason=f"no proxy can read {source.disk.disk_id}")

    def urls_for(self, source: Source, name: str, journal: Journal) -> tuple[tuple[str, ...], tuple[DiskAccess, ...]]:
        """The URLs for the proxy ``name``, and the secrets for them. Raises ``SnapshotFailed``.

        The best way is first; in each further attempt of a session the next one, for what opened may have failed later.
        """
        urls = tuple(self._prepared(source, name, journal))
        if not urls:
            reason = f"the proxy {name} cannot read {source.disk.disk_id}: {self._choice(source, name).reason}"
            raise SnapshotFailed(vm=source.vm.name, reason=reason)
        return self._with_living_access(urls)

    def written_by(self, source: Source, name: str, journal: Journal) -> tuple[str, tuple[DiskAccess, ...]]:
        """The URL by which the proxy ``name`` writes a disk, and the secrets for it. Raises ``UsageError``."""
        url = next(self._prepared(source, name, journal), None)
        if url is None:
            disk = f"{source.vm.name}/{source.disk.disk_id}"
            reason = self._choice(source, name).reason
            raise UsageError(reason=f"the proxy {name} cannot write to {disk}, and the log says why: {reason}")
        (url,), access = self._with_living_access((url,))
        return url, access

    def access(self) -> DiskAccess:
        """What a proxy needs to be let at files of datastores for as long as this session lives."""
        options = self._options
        return DiskAccess(origin=options.origin, cookie=self._connection.cookie, certificate_sha256=options.pin)

    def release(self, name: str) -> None:
        """Let go of all disks of the snapshot ``name``, before it is removed, or of the restore ``name``. Idempotent.

        Raises :class:`VsphereRefused` or ``HypervisorUnreachable``.
        """
        self.hotadd.release(name)

    def _attempt(self, source: Source, proxy: str) -> int:
        """How often this session has tried the disk on this proxy before."""
        key = source.vm.vm_id, source.disk.disk_id, proxy
        with self._lock:
            self._attempts[key] += 1
            return self._attempts[key] - 1

    def _choice(self, source: Source, name: str) -> Choice:
        order = writing(self._options.transports) if source.is_written else self._options.transports
        return choose(order, self._facts(source.vm, source.disk), self._proxy(name))

    def _proxy(self, name: str) -> ProxyOptions:
        return self._options.proxies.get(name, ProxyOptions())

    def _prepared(self, source: Source, name: str, journal: Journal) -> Iterator[str]:
        """The URLs for the proxy ``name``, each when what it needs is made."""
        disk, proxy = source.disk, self._proxy(name)
        for way in turned(self._choice(source, name).ways, self._attempt(source, name)):
            try:
                if way is Transport.HOTADD:
                    self.hotadd.attach(
                        source.name, _name(disk), disk.uuid, proxy.vm, journal, writable=source.is_written
                    )
                yield self._url(way, source, proxy)
            except (VsphereRefused, HoldfastError) as error:
                log.warning("%s of %s is not to be had by %s: %s", disk.disk_id, source.vm.name, way, error)

    def _url(self, way: Transport, source: Source, proxy: ProxyOptions) -> str:
        options, disk = self._options, source.disk
        match way:
            case Transport.HOTADD:
                return device_url(disk.uuid)
            case Transport.NFS | Transport.SAN:
                return mounted_url(proxy.mounts[disk.datastore], disk.file)
            case Transport.HTTPS:
                center = self._inventory.datacenter_of(source.machine._GetMoId())
                return flat_url(options.origin, center, disk.datastore, disk.file)
            case Transport.NBD:
                machine = source.machine._GetMoId()
                snapshot = "" if source.is_written else source.snapshot._GetMoId()
                return vddk_url(options.host, options.port, machine, snapshot, _name(disk))

    def _with_living_access(self, urls: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[DiskAccess, ...]]:
        """For somebody who opens them now: a session that has ended lets nobody at files, and asking begins another."""
        self._connection.server_time()
        return self._with_access(urls)

    def _with_access(self, urls: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[DiskAccess, ...]]:
        """Secrets for the servers that the URLs name, and for no other."""
        user, password = self._connection.credentials
        kit = f"vddk{self._options.origin.removeprefix('https')}"
        pin = self._options.pin
        known = (self.access(), DiskAccess(origin=kit, user=user, password=password, certificate_sha256=pin))
        origins = {parse_disk_url(url).origin for url in urls}
        return urls, tuple(access for access in known if access.origin in origins)

    def _facts(self, vm: VmRef, disk: Disk) -> DiskFacts:
        kind = self._inventory.datastore_kind(disk.datastore)
        return DiskFacts(vm.name, vm.vm_id, disk.datastore, kind, disk.parent)


def _name(disk: Disk) -> str:
    return f"[{disk.datastore}] {disk.file}"
