"""Backups by the driver of `qemu` and its tracker without a session: each is compared with the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import DiskBitmap, Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.qemu import BitmapTracker, QemuDriver, QemuOptions
from holdfast_plugins.testkit import MemoryJournal
from lab.frozen_disks import extents_of, read_whole
from lab.qemu_vms import QemuVm

VM = VmRef("vm", "vm")


class Told(Enum):
    """What a driver hears of whether a point exists: of a repository that is away nobody may know better."""

    THE_TRUTH = auto()
    THE_OPPOSITE = auto()
    NOTHING = auto()


class Backups:
    """A series of points of one VM. ``named``: by disk, the bytes that tracking named for the latest point.

    ``ca``: the authority of servers that its disks come from. ``options``: more of the plugin's.
    """

    def __init__(self, vm: QemuVm, series: str = "one", ca: Path | None = None, **options: Any) -> None:
        self.vm, self.series = vm, series
        self._ca, self._options = ca, options
        self.journal = MemoryJournal()
        self.driver = self.another_driver()
        self.named: dict[str, int] = {}
        self._base: dict[str, tuple[str, bytes]] = {}

    def another_driver(self) -> QemuDriver:
        """As the next session makes it."""
        vms, scratch = (f"vm={self.vm.monitor}",), str(self.vm.scratch)
        return QemuDriver(QemuOptions(vms=vms, scratch_dir=scratch, fleecing=self.vm.fleecing, **self._options), {})

    def snapshot(self, *disks: str) -> Snapshot:
        wanted = disks or tuple(disk.disk_id for disk in self.driver.vm_info(VM).disks)
        since = {disk: change_id for disk, (change_id, _) in self._base.items()}
        request = SnapshotRequest(VM, "test", wanted, series=self.series, since=since)
        return self.driver.create_snapshot(request, self.journal)

    def remove(self, snapshot: Snapshot, committed: bool = True) -> None:
        self.driver.remove_snapshot(snapshot, committed, self.journal)

    def die(self) -> None:
        """The session that made the snapshot dies with it; another fulfils what it left open."""
        self.driver = self.another_driver()
        for number, owed in list(self.journal.open.items()):
            self.driver.fulfil(owed.kind, owed.data)
            self.journal.strike(number)

    def back_up(
        self, committed: bool = True, meanwhile: Callable[[], object] = lambda: None, told: Told = Told.THE_TRUTH
    ) -> dict[str, str]:
        """Make a point; by disk, why its tracking was lost, empty where it was not or there was no base.

        Fails the test unless the snapshot, and base and changes together, are what the disk held at its instant.
        ``meanwhile``: what the guest does as long as the snapshot lives. ``told``: what the driver hears of the point.
        """
        info = self.driver.vm_info(VM)
        contents = {disk.disk_id: self.vm.content(disk.disk_id) for disk in info.disks}
        snapshot = self.snapshot()
        lost, points = {}, {}
        self.named.clear()
        meanwhile()
        for disk in snapshot.disks:
            frozen = self.read(disk.urls[0])
            assert first_difference(frozen, contents[disk.disk_id]) is None, f"{disk.disk_id} is not frozen"
            lost[disk.disk_id] = self._add_changes(snapshot, disk.disk_id, disk.urls[0], frozen)
            assert disk.change_id is not None
            points[disk.disk_id] = (disk.change_id, frozen)
        self.driver.check_snapshot(snapshot)
        if told is Told.NOTHING:
            self.die()
        else:
            self.remove(snapshot, committed is (told is Told.THE_TRUTH))
        if committed:
            self._base = points
        return lost

    def read(self, url: str) -> bytes:
        return read_whole(url, self.vm.scratch, self._ca, timeout_s=10)

    def changes(self, url: str, bitmap: str) -> Sequence[Extent]:
        return extents_of(url, bitmap, self.vm.scratch, self._ca, timeout_s=10)

    def _add_changes(self, snapshot: Snapshot, disk_id: str, url: str, frozen: bytes) -> str:
        if disk_id not in self._base or len(self._base[disk_id][1]) != len(frozen):
            return ""  # a session does not ask then
        since, before = self._base[disk_id]
        try:
            told = BitmapTracker(self.driver).changed(snapshot, disk_id, since)
        except ChangeTrackingLost as error:
            return error.text
        assert isinstance(told, DiskBitmap)
        made, extents = bytearray(before), self.changes(url, told.name)
        for extent in extents:
            made[extent.start : extent.end] = frozen[extent.start : extent.end]
        wrong = first_difference(bytes(made), frozen)
        assert wrong is None, f"{disk_id} has changed at {wrong}, which its bitmap does not say"
        self.named[disk_id] = sum(extent.length for extent in extents)
        return ""


def first_difference(one: bytes, other: bytes) -> int | None:
    """Where two contents differ first; the shorter one's end, if they do not before."""
    if one == other:
        return None
    step = 4096
    for at in range(0, max(len(one), len(other)), step):
        if one[at : at + step] != other[at : at + step]:
            return at
    return None
