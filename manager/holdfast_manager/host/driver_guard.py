"""What stands between a session and a plugin's object: the same protocol, with every call at the plugin boundary.

Errors that a plugin raises on purpose (``HoldfastError``) pass unchanged. Anything else, any answer that breaks the
protocol, and a call that does not come back become typed errors here, so that a session never has to guess what a
plugin may do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from holdfast_agent.errors import GuestAgentSilent, GuestProcessingFailed, HoldfastError, UsageError
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.model.units import MIB
from holdfast_plugins.api import (
    AgentChannel,
    ChecksRights,
    HypervisorDriver,
    InGuest,
    Journal,
    MountsInstantly,
    OffersGuestAgent,
    OffersLoad,
    OffersPlaces,
    OffersPrograms,
    OffersTransports,
    PlaceKind,
    RestoreDisk,
    RestoreTarget,
    RollsBack,
    RunsInstantly,
    ServedDisk,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    Told,
    VmInfo,
    VmRef,
    WritesByTransports,
)

from . import guest_guard
from .boundary import Boundary, expect

T = TypeVar("T")
MAX_CONFIG_BYTES = 4 * MIB


def runs_instantly(driver: HypervisorDriver) -> bool:
    """Whether the plugin's own driver is one of ``RunsInstantly``."""
    return isinstance(driver.unguarded if isinstance(driver, GuardedDriver) else driver, RunsInstantly)


def mounts_instantly(driver: HypervisorDriver) -> bool:
    """Whether the plugin's own driver is one of ``MountsInstantly``."""
    return isinstance(driver.unguarded if isinstance(driver, GuardedDriver) else driver, MountsInstantly)


class GuardedDriver:
    """A ``HypervisorDriver`` around a plugin's; ``unguarded`` is the plugin's own object, for its change trackers."""

    def __init__(self, plugin: str, driver: HypervisorDriver) -> None:
        self._plugin = plugin
        self._boundary = Boundary(plugin)
        self.unguarded = driver

    def connect(self) -> None:
        self._boundary.call("connect", lambda: self.unguarded.connect())

    def close(self) -> None:
        self._boundary.close(lambda: self.unguarded.close())

    def list_vms(self) -> Sequence[VmRef]:
        vms = self._boundary.call("list_vms", lambda: list(self.unguarded.list_vms()))
        with self._boundary.judging("list_vms"):
            _unique("VM ids", (vm.vm_id for vm in vms))
        return vms

    def vm_info(self, vm: VmRef) -> VmInfo:
        info = self._boundary.call("vm_info", lambda: self.unguarded.vm_info(vm), vm.vm_id)
        with self._boundary.judging("vm_info"):
            _unique("disk ids", (disk.disk_id for disk in info.disks))
            expect(all(disk.size_bytes >= 0 for disk in info.disks), "a disk has a negative size")
            expect(len(info.config) <= MAX_CONFIG_BYTES, f"the VM's config exceeds {MAX_CONFIG_BYTES} bytes")
        return info

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        snapshot = self._boundary.call(
            "create_snapshot", lambda: self.unguarded.create_snapshot(request, journal), request.vm.vm_id
        )
        try:
            with self._boundary.judging("create_snapshot"):
                _check_snapshot(snapshot, request)
        except BaseException:
            # Nobody else will ever know this snapshot; a failing removal leaves its promise in the journal.
            with suppress(HoldfastError):
                self._boundary.call(
                    "remove_snapshot",
                    lambda: self.unguarded.remove_snapshot(snapshot, False, journal),
                    request.vm.vm_id,
                )
            raise
        return snapshot

    def check_snapshot(self, snapshot: Snapshot) -> None:
        self._boundary.call("check_snapshot", lambda: self.unguarded.check_snapshot(snapshot), snapshot.vm.vm_id)

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        self._boundary.call(
            "remove_snapshot", lambda: self.unguarded.remove_snapshot(snapshot, committed, journal), snapshot.vm.vm_id
        )

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        self._boundary.call("fulfil", lambda: self.unguarded.fulfil(kind, data))

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        target = self._boundary.call(
            "prepare_restore",
            lambda: self.unguarded.prepare_restore(name, info, overwrite, journal),
            f"restore of {name}",
        )
        with self._boundary.judging("prepare_restore"):
            return _checked_target(target)

    def prepare_rollback(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        own = self.unguarded
        if not isinstance(own, RollsBack):
            reason = f"the hypervisor plugin {self._plugin} rewrites no VM in place; replace it with --overwrite"
            raise UsageError(reason=reason)
        target = self._boundary.call(
            "prepare_rollback", lambda: own.prepare_rollback(name, info, since, journal), f"restore of {name}"
        )
        with self._boundary.judging("prepare_rollback"):
            return _checked_target(target)

    def place_for(self, target: RestoreTarget, disk: RestoreDisk, proxy: str, journal: Journal) -> RestoreDisk:
        """``disk`` itself where the plugin's driver offers one way for all."""
        own = self.unguarded
        if not isinstance(own, WritesByTransports):
            return disk
        told = self._boundary.call(
            "place_for", lambda: own.place_for(target, disk, proxy, journal), f"restore of {target.vm.name}"
        )
        with self._boundary.judging("place_for"):
            same = (told.disk_id, told.size_bytes, told.changed) == (disk.disk_id, disk.size_bytes, disk.changed)
            expect(same, f"it was asked for the disk {disk.disk_id} and gave another")
            _check_access(told.disk_id, (told.url,), told.access)
        return told

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        return self._boundary.call(
            "finish_restore",
            lambda: self.unguarded.finish_restore(target, info, journal),
            f"restore of {target.vm.name}",
        )

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        self._boundary.call(
            "abandon_restore", lambda: self.unguarded.abandon_restore(target, journal), f"restore of {target.vm.name}"
        )

    def start_instant(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        own = self._instant()
        return self._boundary.call(
            "start_instant", lambda: own.start_instant(name, info, disks, journal), f"instant recovery of {name}"
        )

    def resume_instant(self, vm: VmRef) -> None:
        own = self._instant()
        self._boundary.call("resume_instant", lambda: own.resume_instant(vm), vm.vm_id)

    def migrate_instant(self, vm: VmRef, journal: Journal, told: Told) -> None:
        own = self._instant()
        self._boundary.call("migrate_instant", lambda: own.migrate_instant(vm, journal, told), vm.vm_id)

    def stop_instant(self, vm: VmRef, journal: Journal) -> None:
        own = self._instant()
        self._boundary.call("stop_instant", lambda: own.stop_instant(vm, journal), vm.vm_id)

    def instant_clients(self, name: str, info: VmInfo) -> Sequence[str]:
        own = self.unguarded
        if not isinstance(own, MountsInstantly):
            raise UsageError(reason=f"VMs of the plugin {self._plugin} take no disks over NFS")
        with self._boundary.judging("instant_clients"):
            clients = tuple(
                self._boundary.call(
                    "instant_clients", lambda: own.instant_clients(name, info), f"instant recovery of {name}"
                )
            )
            expect(bool(clients) and all(isinstance(each, str) for each in clients), "it names nobody")
        return clients

    def _instant(self) -> RunsInstantly:
        own = self.unguarded
        if not isinstance(own, RunsInstantly):
            raise UsageError(reason=f"VMs of the plugin {self._plugin} cannot run from a restore point")
        return own

    def guest_agent(self, vm: VmRef) -> AgentChannel:
        own = self.unguarded
        if not isinstance(own, OffersGuestAgent):
            reason = f"the hypervisor plugin {self._plugin} has no channel to it"
            raise GuestAgentSilent(vm=vm.name, reason=reason)
        channel = self._boundary.call("guest_agent", lambda: own.guest_agent(vm), vm.vm_id)
        return guest_guard.GuardedAgentChannel(self._plugin, channel)

    def programs(self, vm: VmRef) -> InGuest:
        own = self.unguarded
        if not isinstance(own, OffersPrograms):
            reason = f"the hypervisor plugin {self._plugin} runs no programs in guests"
            raise GuestProcessingFailed(vm=vm.name, phase="programs", reason=reason)
        return guest_guard.GuardedInGuest(
            self._plugin, self._boundary.call("programs", lambda: own.programs(vm), vm.vm_id)
        )

    def near_proxies(self, info: VmInfo, disk_id: str) -> Sequence[Collection[str]]:
        """None where the plugin's driver offers one way for all."""
        own = self.unguarded
        if not isinstance(own, OffersTransports):
            return ()
        return self._boundary.call(
            "near_proxies", lambda: tuple(tuple(group) for group in own.near_proxies(info, disk_id)), info.ref.vm_id
        )

    def disk_for(self, snapshot: Snapshot, disk: SnapshotDisk, proxy: str, journal: Journal) -> SnapshotDisk:
        """``disk`` itself where the plugin's driver offers one way for all."""
        own = self.unguarded
        if not isinstance(own, OffersTransports):
            return disk
        told = self._boundary.call("disk_for", lambda: own.disk_for(snapshot, disk, proxy, journal), snapshot.vm.vm_id)
        with self._boundary.judging("disk_for"):
            same = (told.disk_id, told.size_bytes, told.change_id) == (disk.disk_id, disk.size_bytes, disk.change_id)
            expect(same, f"it was asked for the disk {disk.disk_id} and gave another")
            _check_ways(told)
        return told

    def places(self, kind: PlaceKind) -> Mapping[str, Collection[str]]:
        """Nothing where the plugin's driver knows no places."""
        own = self.unguarded
        return self._boundary.call("places", lambda: own.places(kind)) if isinstance(own, OffersPlaces) else {}

    def latencies_ms(self, datastores: Collection[str]) -> Mapping[str, float]:
        """Nothing where the plugin's driver does not know."""
        own = self.unguarded
        if not isinstance(own, OffersLoad):
            return {}
        return self._boundary.call("latencies_ms", lambda: own.latencies_ms(datastores))

    def missing_rights(self) -> Sequence[str]:
        """Nothing where all users of such a server may do everything."""
        own = self.unguarded
        return (
            self._boundary.call("missing_rights", lambda: own.missing_rights()) if isinstance(own, ChecksRights) else ()
        )


def _check_snapshot(snapshot: Snapshot, request: SnapshotRequest) -> None:
    """The snapshot holds just the disks asked for, each with a URL that an agent can open."""
    _unique("disk ids", (disk.disk_id for disk in snapshot.disks))
    expect({disk.disk_id for disk in snapshot.disks} == set(request.disk_ids), "it has other disks than asked for")
    for disk in snapshot.disks:
        _check_ways(disk)


def _check_ways(disk: SnapshotDisk) -> None:
    expect(bool(disk.urls), f"disk {disk.disk_id} has no URL")
    _check_access(disk.disk_id, disk.urls, disk.access)


def _checked_target(target: RestoreTarget) -> RestoreTarget:
    for disk in target.disks:
        _check_access(disk.disk_id, (disk.url,), disk.access)
    return target


def _check_access(disk_id: str, urls: Iterable[str], access: Iterable[DiskAccess]) -> None:
    """The URLs are ones that an agent can open, and no secret is for a server that none of them names."""
    origins = {parse_disk_url(url).origin for url in urls}
    strange = [each.origin for each in access if each.origin not in origins]
    expect(not strange, f"disk {disk_id} has secrets for {', '.join(strange)}, which none of its URLs names")


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        expect(name not in seen, f"the {what} are not unique: {name!r}")
        seen.add(name)
