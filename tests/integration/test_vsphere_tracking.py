"""Changed-block tracking over vSphere: random histories, more extents than a reply holds, and ids that do not count."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import Snapshot, SnapshotRequest
from holdfast_plugins.hypervisors.vsphere import CbtTracker, VsphereDriver
from holdfast_plugins.testkit import MemoryJournal
from lab.vcenter import GRAIN_BYTES, MOST_EXTENTS, Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import connected, machine_of, read_url, run_task, service_of

MIB = 1 << 20
ODD = 37 << 10
"""What the disk is longer than whole grains, so that the last extent would reach past its end."""
DISK = "scsi0:0"


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture
def driver(center: VCenter) -> Iterator[VsphereDriver]:
    with connected(center) as made:
        yield made
    center.assert_clean()


class Backups:
    """Of one disk, one after the other; the content of the last that committed is known."""

    def __init__(self, center: VCenter, driver: VsphereDriver, vm: LabVm, folder: Path) -> None:
        self._center, self._driver, self._vm, self._folder = center, driver, vm, folder
        self._ref = next(each for each in driver.list_vms() if each.name == vm.name)
        self._tracker = CbtTracker(driver)
        self.since, self.content = "", b""

    def run(self) -> list[Extent]:
        """What is told to have changed; it makes the disk, together with what was there."""
        snapshot, journal = self._taken()
        try:
            content = read_url(self._center, snapshot.disks[0].urls[0], self._folder)
            since = self.since
            told = self._tracker.changed(snapshot, DISK, since) if since else self._tracker.allocated(snapshot, DISK)
        finally:
            self._driver.remove_snapshot(snapshot, True, journal)
        assert told is not None
        made = bytearray(self.content if since else bytes(len(content)))
        for extent in told:
            assert 0 <= extent.start < extent.end <= len(content)
            made[extent.start : extent.end] = content[extent.start : extent.end]
        assert made == content, "something has changed, or is in use, that was not told"
        assert content == self._center.content(self._vm, 0)
        self.since, self.content = snapshot.disks[0].change_id or "", content
        return list(told)

    def why_lost(self) -> str:
        """Of a backup that takes place, and remembers nothing."""
        snapshot, journal = self._taken()
        try:
            with pytest.raises(ChangeTrackingLost) as lost:
                self._tracker.changed(snapshot, DISK, self.since)
        finally:
            self._driver.remove_snapshot(snapshot, True, journal)
        return lost.value.text

    def _taken(self) -> tuple[Snapshot, MemoryJournal]:
        journal = MemoryJournal()
        return self._driver.create_snapshot(SnapshotRequest(self._ref, "test", (DISK,)), journal), journal


def test_random_histories_are_told_in_full(center: VCenter, driver: VsphereDriver, tmp_path: Path) -> None:
    chance, size = random.Random(6), 24 * MIB + ODD
    vm = center.create("random", [size])
    backups = Backups(center, driver, vm, tmp_path)
    for count in (60, 0, 1, 150):
        writes = [
            (chance.randrange(size - 100_000), chance.randbytes(chance.choice((1, 512, 99_999)))) for _ in range(count)
        ]
        center.write(vm, 0, [*writes, (size - 1, b"!")] if count else [])
        told = backups.run()
        assert bool(told) is bool(count)


def test_more_extents_than_a_reply_holds(center: VCenter, driver: VsphereDriver, tmp_path: Path) -> None:
    """The disk is asked for until its end: who asks once misses all that comes after the first 2,000."""
    count = MOST_EXTENTS + 300
    vm = center.create("scattered", [2 * count * GRAIN_BYTES + ODD])
    backups = Backups(center, driver, vm, tmp_path)
    for round_ in range(2):
        center.write(vm, 0, [(2 * number * GRAIN_BYTES + 5, bytes([65 + round_])) for number in range(count)])
        assert len(backups.run()) == count


def test_every_reason_to_distrust_an_id_is_told(center: VCenter, driver: VsphereDriver, tmp_path: Path) -> None:
    vm = center.create("doubted", [MIB])
    backups = Backups(center, driver, vm, tmp_path)
    backups.run()
    with center.faults(Fault("QueryChangedDiskAreas", "FileFault")):
        assert "FileFault" in backups.why_lost()
    center.crash(vm)
    assert "began anew" in backups.why_lost()
    backups.since = ""
    backups.run()
    with service_of(center) as service:
        machine = machine_of(service, vm)
        run_task(machine.CreateSnapshotEx_Task("before the update", "", False))
        run_task(machine.snapshot.currentSnapshot.RevertToSnapshot_Task())
        run_task(machine.RemoveAllSnapshots_Task())
    told = backups.why_lost()
    assert "began anew" in told or "reverted" in told
