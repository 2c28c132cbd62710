"""The conformance suite of change trackers: whatever happened, the base and what a tracker names make the disk."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import pytest

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import ChangeTracker, DiskBitmap, HypervisorDriver, Snapshot, SnapshotRequest, VmRef

from .journal import MemoryJournal

_ROUNDS = 5
_WRITES = 12
_LONGEST = 200_000


class ChangeTrackerLab(ABC):
    """One real hypervisor with one VM, made anew for each test. Nothing here may use the tracker under test."""

    @property
    @abstractmethod
    def vm(self) -> VmRef:
        """The VM. All of its disks are tracked."""

    @abstractmethod
    def driver(self) -> HypervisorDriver:
        """A new driver for this hypervisor, not connected. The suite connects and closes it."""

    @abstractmethod
    def tracker(self, driver: HypervisorDriver) -> ChangeTracker:
        """The tracker under test, made as the registered factory makes it: with the connected driver."""

    @abstractmethod
    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        """Write to a disk of the VM as its guest would; on return a later snapshot must contain it."""

    @abstractmethod
    def read(self, url: str) -> bytes:
        """All bytes of the disk at a disk URL, as an agent reads them."""

    def bitmap_extents(self, url: str, name: str) -> Sequence[Extent]:
        """What the dirty bitmap ``name`` of an NBD export tells; for trackers that answer with a ``DiskBitmap``."""
        raise NotImplementedError("a lab of a tracker that names bitmaps reads them")


class ChangeTrackerConformance:
    """Subclass it in a test file and give a fixture ``lab`` that makes a :class:`ChangeTrackerLab`."""

    @pytest.fixture
    def driver(self, lab: ChangeTrackerLab) -> Iterator[HypervisorDriver]:
        driver = lab.driver()
        driver.connect()
        yield driver
        driver.close()

    def test_the_base_and_what_changed_make_the_disk(self, lab: ChangeTrackerLab, driver: HypervisorDriver) -> None:
        """After backups that committed and backups that failed, with writes before, between and while they run."""
        history = _History(lab, driver)
        history.write_somewhere(_WRITES)
        history.back_up(committed=True)
        for number in range(_ROUNDS):
            history.write_somewhere(_WRITES if number % 2 else 1)
            history.back_up(committed=number != 2)

    def test_where_nothing_was_written_little_is_named(self, lab: ChangeTrackerLab, driver: HypervisorDriver) -> None:
        history = _History(lab, driver)
        history.back_up(committed=True)
        for disk_id, (named, size) in history.back_up(committed=True).items():
            assert named <= size // 2, f"of {disk_id}, which nobody wrote to, {named} of {size} bytes are named"

    def test_a_change_id_that_is_not_known_is_lost(self, lab: ChangeTrackerLab, driver: HypervisorDriver) -> None:
        tracker, journal = lab.tracker(driver), MemoryJournal()
        snapshot = _History(lab, driver).snapshot(journal)
        for disk in snapshot.disks:
            with pytest.raises(ChangeTrackingLost):
                tracker.changed(snapshot, disk.disk_id, "holdfast-no-such-change-id")
        driver.remove_snapshot(snapshot, committed=False, journal=journal)

    def test_what_is_called_unused_is_zeros(self, lab: ChangeTrackerLab, driver: HypervisorDriver) -> None:
        history, journal = _History(lab, driver), MemoryJournal()
        history.write_somewhere(_WRITES)
        snapshot = history.snapshot(journal)
        for disk in snapshot.disks:
            allocated = lab.tracker(driver).allocated(snapshot, disk.disk_id)
            if allocated is not None:
                content = lab.read(disk.urls[0])
                wrong = _first_difference(_laid_over(bytes(len(content)), allocated, content), content)
                assert wrong is None, f"{disk.disk_id} has data at {wrong} that is not called allocated"
        driver.remove_snapshot(snapshot, committed=False, journal=journal)


class _History:
    """Backups of one VM one after the other, each compared with the truth."""

    def __init__(self, lab: ChangeTrackerLab, driver: HypervisorDriver) -> None:
        self._lab = lab
        self._driver = driver
        self._tracker = lab.tracker(driver)
        self._chance = random.Random(8)  # noqa: S311 (the same history every time)
        self._info = driver.vm_info(lab.vm)
        self._base: dict[str, tuple[str, bytes]] = {}

    def write_somewhere(self, times: int) -> None:
        for _ in range(times):
            disk = self._chance.choice(self._info.disks)
            length = min(self._chance.choice([1, 512, 5000, _LONGEST]), disk.size_bytes)
            offset = self._chance.randrange(disk.size_bytes - length + 1)
            self._lab.write(disk.disk_id, offset, self._chance.randbytes(length))

    def snapshot(self, journal: MemoryJournal) -> Snapshot:
        disk_ids = tuple(disk.disk_id for disk in self._info.disks)
        since = {disk_id: change_id for disk_id, (change_id, _) in self._base.items()}
        return self._driver.create_snapshot(SnapshotRequest(self._lab.vm, "suite", disk_ids, since=since), journal)

    def back_up(self, *, committed: bool) -> dict[str, tuple[int, int]]:
        """A snapshot whose changes are taken; for each disk that had a base the bytes named, and its size."""
        journal, named, contents = MemoryJournal(), {}, {}
        snapshot = self.snapshot(journal)
        self.write_somewhere(1)  # the guest goes on
        for disk in snapshot.disks:
            assert disk.change_id is not None, f"disk {disk.disk_id} has no change id"
            content = self._lab.read(disk.urls[0])
            contents[disk.disk_id] = (disk.change_id, content)
            if disk.disk_id in self._base:
                since, before = self._base[disk.disk_id]
                extents = self._changes(snapshot, disk.disk_id, disk.urls[0], since)
                wrong = _first_difference(_laid_over(before, extents, content), content)
                assert wrong is None, f"{disk.disk_id} has changed at {wrong}, which was not named"
                named[disk.disk_id] = (sum(extent.length for extent in extents), disk.size_bytes)
        self._driver.remove_snapshot(snapshot, committed=committed, journal=journal)
        if committed:
            self._base = contents
        return named

    def _changes(self, snapshot: Snapshot, disk_id: str, url: str, since: str) -> Sequence[Extent]:
        told = self._tracker.changed(snapshot, disk_id, since)
        return self._lab.bitmap_extents(url, told.name) if isinstance(told, DiskBitmap) else told


def _laid_over(before: bytes, extents: Sequence[Extent], content: bytes) -> bytes:
    """``before`` with ``extents`` taken from ``content``; they must ascend and lie on the disk."""
    made, following = bytearray(before), 0
    for extent in extents:
        assert extent.length >= 0 and extent.start >= following, "the extents do not ascend"
        assert extent.end <= len(content), "an extent lies past the end of the disk"
        following = extent.start
        made[extent.start : extent.end] = content[extent.start : extent.end]
    return bytes(made)


def _first_difference(one: bytes, other: bytes) -> int | None:
    """Where two disks differ first. They are never compared in an ``assert``: pytest would look for all differences."""
    if one == other:
        return None
    step = 1 << 16
    block = next(at for at in range(0, max(len(one), len(other)), step) if one[at : at + step] != other[at : at + step])
    return next(at for at in range(block, block + step) if one[at : at + 1] != other[at : at + 1])
