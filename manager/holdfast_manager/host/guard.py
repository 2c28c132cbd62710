"""What stands between a session and a plugin's object: the same protocol, with every call at the plugin boundary.

Errors that a plugin raises on purpose (``HoldfastError``) pass unchanged. Anything else, and any answer that breaks
the protocol, becomes :class:`PluginDefect` here, so that a session never has to guess what a plugin may do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

from holdfast_agent.errors import (
    ChangeTrackingLost,
    DiskUrlInvalid,
    GuestAgentSilent,
    HoldfastError,
    PluginDefect,
    UsageError,
)
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.units import MIB
from holdfast_plugins.api import (
    AgentChannel,
    ChangeTracker,
    ChecksRights,
    ConsistencyLevel,
    DiskBitmap,
    FreezeHandle,
    GuestAccess,
    GuestProcessor,
    HypervisorDriver,
    Journal,
    Notice,
    Notifier,
    OffersGuestAgent,
    OffersPlaces,
    OffersTransports,
    PlaceKind,
    RestoreTarget,
    RollsBack,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

log = logging.getLogger(__name__)
MAX_CONFIG_BYTES = 4 * MIB
MAX_BITMAP_NAME = 1023  # QEMU's own bound


class GuardedDriver:
    """A ``HypervisorDriver`` around a plugin's; ``unguarded`` is the plugin's own object, for its change trackers."""

    def __init__(self, plugin: str, driver: HypervisorDriver) -> None:
        self._plugin = plugin
        self.unguarded = driver

    def connect(self) -> None:
        with self._boundary("connect"):
            self.unguarded.connect()

    def close(self) -> None:
        _close(self._plugin, self.unguarded.close)

    def list_vms(self) -> Sequence[VmRef]:
        with self._boundary("list_vms"):
            vms = list(self.unguarded.list_vms())
            _unique("VM ids", (vm.vm_id for vm in vms))
            return vms

    def vm_info(self, vm: VmRef) -> VmInfo:
        with self._boundary("vm_info"):
            info = self.unguarded.vm_info(vm)
            _unique("disk ids", (disk.disk_id for disk in info.disks))
            _expect(all(disk.size_bytes >= 0 for disk in info.disks), "a disk has a negative size")
            _expect(len(info.config) <= MAX_CONFIG_BYTES, f"the VM's config exceeds {MAX_CONFIG_BYTES} bytes")
            return info

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        with self._boundary("create_snapshot"):
            snapshot = self.unguarded.create_snapshot(request, journal)
            try:
                _check_snapshot(snapshot, request)
            except BaseException:
                # Nobody else will ever know this snapshot; a failing removal leaves its promise in the journal.
                with suppress(HoldfastError):
                    self.remove_snapshot(snapshot, committed=False, journal=journal)
                raise
            return snapshot

    def check_snapshot(self, snapshot: Snapshot) -> None:
        with self._boundary("check_snapshot"):
            self.unguarded.check_snapshot(snapshot)

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        with self._boundary("remove_snapshot"):
            self.unguarded.remove_snapshot(snapshot, committed, journal)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        with self._boundary("fulfil"):
            self.unguarded.fulfil(kind, data)

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        with self._boundary("prepare_restore"):
            return _checked_target(self.unguarded.prepare_restore(name, info, overwrite, journal))

    def prepare_rollback(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        with self._boundary("prepare_rollback"):
            if not isinstance(self.unguarded, RollsBack):
                reason = f"the hypervisor plugin {self._plugin} rewrites no VM in place; replace it with --overwrite"
                raise UsageError(reason=reason)
            return _checked_target(self.unguarded.prepare_rollback(name, info, since, journal))

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        with self._boundary("finish_restore"):
            return self.unguarded.finish_restore(target, info, journal)

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        with self._boundary("abandon_restore"):
            self.unguarded.abandon_restore(target, journal)

    def guest_agent(self, vm: VmRef) -> AgentChannel:
        with self._boundary("guest_agent"):
            if not isinstance(self.unguarded, OffersGuestAgent):
                reason = f"the hypervisor plugin {self._plugin} has no channel to it"
                raise GuestAgentSilent(vm=vm.name, reason=reason)
            return GuardedAgentChannel(self._plugin, self.unguarded.guest_agent(vm))

    def near_proxies(self, info: VmInfo, disk_id: str) -> Sequence[Collection[str]]:
        """None where the plugin's driver offers one way for all."""
        with self._boundary("near_proxies"):
            if not isinstance(self.unguarded, OffersTransports):
                return ()
            return tuple(tuple(group) for group in self.unguarded.near_proxies(info, disk_id))

    def disk_for(self, snapshot: Snapshot, disk: SnapshotDisk, proxy: str, journal: Journal) -> SnapshotDisk:
        """``disk`` itself where the plugin's driver offers one way for all."""
        with self._boundary("disk_for"):
            if not isinstance(self.unguarded, OffersTransports):
                return disk
            told = self.unguarded.disk_for(snapshot, disk, proxy, journal)
            same = (told.disk_id, told.size_bytes, told.change_id) == (disk.disk_id, disk.size_bytes, disk.change_id)
            _expect(same, f"it was asked for the disk {disk.disk_id} and gave another")
            _check_ways(told)
            return told

    def places(self, kind: PlaceKind) -> Mapping[str, Collection[str]]:
        """Nothing where the plugin's driver knows no places."""
        with self._boundary("places"):
            return self.unguarded.places(kind) if isinstance(self.unguarded, OffersPlaces) else {}

    def missing_rights(self) -> Sequence[str]:
        """Nothing where all users of such a server may do everything."""
        with self._boundary("missing_rights"):
            return self.unguarded.missing_rights() if isinstance(self.unguarded, ChecksRights) else ()

    def _boundary(self, method: str) -> AbstractContextManager[None]:
        return _boundary(self._plugin, method)


class GuardedAgentChannel:
    """An ``AgentChannel`` around a hypervisor plugin's; it is another plugin that uses it."""

    def __init__(self, plugin: str, channel: AgentChannel) -> None:
        self._plugin = plugin
        self._channel = channel

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        with _boundary(self._plugin, "exchange"):
            return self._channel.exchange(command, timeout_s)


def _check_snapshot(snapshot: Snapshot, request: SnapshotRequest) -> None:
    """The snapshot holds just the disks asked for, each with a URL that an agent can open."""
    _unique("disk ids", (disk.disk_id for disk in snapshot.disks))
    _expect({disk.disk_id for disk in snapshot.disks} == set(request.disk_ids), "it has other disks than asked for")
    for disk in snapshot.disks:
        _check_ways(disk)


def _check_ways(disk: SnapshotDisk) -> None:
    _expect(bool(disk.urls), f"disk {disk.disk_id} has no URL")
    _check_access(disk.disk_id, disk.urls, disk.access)


def _checked_target(target: RestoreTarget) -> RestoreTarget:
    for disk in target.disks:
        _check_access(disk.disk_id, (disk.url,), disk.access)
    return target


def _check_access(disk_id: str, urls: Iterable[str], access: Iterable[DiskAccess]) -> None:
    """The URLs are ones that an agent can open, and no secret is for a server that none of them names."""
    origins = {parse_disk_url(url).origin for url in urls}
    strange = [each.origin for each in access if each.origin not in origins]
    _expect(not strange, f"disk {disk_id} has secrets for {', '.join(strange)}, which none of its URLs names")


class GuardedFreezeHandle:
    """A ``FreezeHandle`` around a plugin's."""

    def __init__(self, plugin: str, handle: FreezeHandle) -> None:
        self._plugin = plugin
        self._handle = handle

    @property
    def consistency(self) -> ConsistencyLevel:
        with _boundary(self._plugin, "consistency"):
            return ConsistencyLevel(self._handle.consistency)

    @property
    def note(self) -> str:
        with _boundary(self._plugin, "note"):
            return str(self._handle.note)

    @property
    def shortfall(self) -> str:
        with _boundary(self._plugin, "shortfall"):
            return str(self._handle.shortfall)

    def thaw(self) -> None:
        with _boundary(self._plugin, "thaw"):
            self._handle.thaw()


class GuardedGuestProcessor:
    """A ``GuestProcessor`` around a plugin's."""

    def __init__(self, plugin: str, processor: GuestProcessor) -> None:
        self._plugin = plugin
        self._processor = processor

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        with _boundary(self._plugin, "freeze"):
            return GuardedFreezeHandle(self._plugin, self._processor.freeze(vm, access, deadline_s))

    def close(self) -> None:
        _close(self._plugin, self._processor.close)


class GuardedNotifier:
    """A ``Notifier`` around a plugin's."""

    def __init__(self, plugin: str, notifier: Notifier) -> None:
        self._plugin = plugin
        self._notifier = notifier

    def send(self, notice: Notice, timeout_s: float) -> None:
        with _boundary(self._plugin, "send"):
            self._notifier.send(notice, timeout_s)


class GuardedTracker:
    """A ``ChangeTracker`` around a plugin's: whatever goes wrong reads as :class:`ChangeTrackingLost`."""

    def __init__(self, plugin: str, tracker: ChangeTracker) -> None:
        self._plugin = plugin
        self._tracker = tracker

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        with self._losing("changed"):
            told = self._tracker.changed(snapshot, disk_id, since)
            return _known_to_qemu(told) if isinstance(told, DiskBitmap) else _ascending(told)

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        with self._losing("allocated"):
            extents = self._tracker.allocated(snapshot, disk_id)
            return None if extents is None else _ascending(extents)

    @contextmanager
    def _losing(self, method: str) -> Iterator[None]:
        try:
            with _boundary(self._plugin, method):
                yield
        except ChangeTrackingLost:
            raise
        except HoldfastError as error:
            log.warning("%s", error)
            raise ChangeTrackingLost(reason=error.text) from error


class _ContractBroken(Exception):
    """An answer that the protocol does not allow."""


@contextmanager
def _boundary(plugin: str, method: str) -> Iterator[None]:
    try:
        yield
    except (_ContractBroken, DiskUrlInvalid) as error:
        raise PluginDefect(plugin=plugin, method=method, reason=str(error)) from error
    except HoldfastError:
        raise
    except Exception as error:  # plugin boundary
        reason = f"{type(error).__name__}: {error}"
        raise PluginDefect(plugin=plugin, method=method, reason=reason) from error


def _close(plugin: str, close: Callable[[], None]) -> None:
    try:
        close()
    except Exception:  # plugin boundary: a failing clean-up must not hide the first error
        log.exception("close of plugin %s raised", plugin)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _ContractBroken(otherwise)


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        _expect(name not in seen, f"the {what} are not unique: {name!r}")
        seen.add(name)


def _known_to_qemu(bitmap: DiskBitmap) -> DiskBitmap:
    _expect(0 < len(bitmap.name) <= MAX_BITMAP_NAME, f"{bitmap.name!r} cannot be the name of a bitmap")
    return bitmap


def _ascending(extents: Sequence[Extent]) -> Sequence[Extent]:
    previous = 0
    for extent in extents:
        _expect(extent.start >= previous and extent.length >= 0, f"the extents do not ascend at {extent.start}")
        previous = extent.start
    return extents
