"""Backups over libvirt by the plugin's driver alone, without a session, each compared with the truth."""

from __future__ import annotations

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_plugins.api import DiskBitmap, Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.libvirt import CheckpointTracker, LibvirtDriver, LibvirtOptions
from holdfast_plugins.testkit import MemoryJournal
from lab.frozen_disks import extents_of, read_whole
from lab.libvirt_host import LibvirtVm


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
