"""Backups over libvirt by the plugin's driver alone, without a session, each compared with the truth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from holdfast_agent.disks.disk import ReadableDisk, changed_extents
from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.disk_url import parse_disk_url, with_bitmap
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import DiskBitmap, Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import CheckpointTracker, LibvirtDriver, LibvirtOptions
from holdfast_plugins.testkit import MemoryJournal
from lab.disks import host_for
from lab.libvirt_host import LibvirtVm


@contextlib.contextmanager
def opened(url: str, folder: Path) -> Iterator[ReadableDisk]:
    """A disk as an agent opens it that may open what lies in ``folder`` and trusts the authority there."""
    parsed, ca = parse_disk_url(url), folder / "pki" / "ca-cert.pem"
    servers = [parsed.origin] if parsed.host else []
    disk = open_disk(url, host_for(folder, *servers, ca=ca if ca.exists() else None))
    try:
        yield disk
    finally:
        disk.close()


def read_whole(url: str, folder: Path) -> bytes:
    with opened(url, folder) as disk:
        buffer = bytearray(disk.size_bytes)
        disk.read_into(0, memoryview(buffer))
        return bytes(buffer)


def extents_of(url: str, bitmap: str, folder: Path) -> Sequence[Extent]:
    """What a dirty bitmap tells, as a mover asks it."""
    with opened(with_bitmap(url, bitmap), folder) as disk:
        return [Extent(extent.start, extent.length) for extent in changed_extents(disk)]


class DrivenBackups:
    """The backups of one VM to one repository, which ``series`` stands for."""

    def __init__(self, vm: LibvirtVm, series: str = "one", **options: object) -> None:
        self._vm, self._series, self._options = vm, series, options
        self._ref = VmRef(vm.uuid, vm.name)
        self._base: dict[str, tuple[str | None, bytes]] = {}
        self._connect()

    def follow(self) -> None:
        """The VM is on another host now: from now on by a driver for that one."""
        self.close()
        self._connect()

    def run(self, *, committed: bool = True) -> dict[str, str]:
        """One backup; by disk why it was compared, empty where its changes were told (and were the right ones)."""
        journal = MemoryJournal()
        targets = tuple(disk.disk_id for disk in self.driver.vm_info(self._ref).disks)
        since = {target: change for target, (change, _) in self._base.items() if change and target in targets}
        request = SnapshotRequest(self._ref, "test", targets, series=self._series, since=since)
        snapshot = self.driver.create_snapshot(request, journal)
        reasons, contents = {}, {}
        for disk in snapshot.disks:
            content = read_whole(disk.urls[0], self._vm.host.shared.parent)
            assert same(content, self._vm.content[disk.disk_id]), f"{disk.disk_id} is not what its guest wrote"
            contents[disk.disk_id] = (disk.change_id, content)
            reasons[disk.disk_id] = self._compare(snapshot, disk.disk_id, disk.urls[0], content)
        self.driver.check_snapshot(snapshot)
        self.driver.remove_snapshot(snapshot, committed, journal)
        assert not journal.open
        if committed:
            self._base = contents
        return reasons

    def close(self) -> None:
        self.driver.close()

    def _connect(self) -> None:
        self.driver = LibvirtDriver(LibvirtOptions(**self._vm.host.options(**self._options)), {})
        self.driver.connect()
        self._tracker = CheckpointTracker(self.driver)

    def _compare(self, snapshot: Snapshot, target: str, url: str, content: bytes) -> str:
        since, before = self._base.get(target, (None, b""))
        if since is None or len(before) != len(content):
            return "there is no base"
        try:
            told = self._tracker.changed(snapshot, target, since)
        except ChangeTrackingLost as error:
            return error.text
        made = bytearray(before)
        for extent in extents_of(url, told.name, self._vm.host.shared.parent) if isinstance(told, DiskBitmap) else told:
            made[extent.start : extent.end] = content[extent.start : extent.end]
        assert same(made, content), f"{target} has changed where nothing was told"
        return ""


def same(one: bytes | bytearray, other: bytes | bytearray) -> bool:
    """Never compared in an assert: pytest would look for all differences."""
    return one == other
