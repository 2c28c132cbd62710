"""The suite of change trackers over QEMU's bitmaps; and it finds trackers that are wrong, or it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import ChangeTracker, DiskBitmap, HypervisorDriver, Snapshot, VmRef
from holdfast_plugins.testkit import ChangeTrackerConformance, ChangeTrackerLab
from lab.frozen_disks import extents_of, read_whole
from lab.storage_plugin import Options, StorageDriver, StorageTracker
from lab.storage_vms import StorageVm

MIB = 1 << 20


class StorageLab(ChangeTrackerLab):
    """A disk of QEMU's storage daemon."""

    def __init__(self, vm: StorageVm) -> None:
        self._vm = vm

    @property
    def vm(self) -> VmRef:
        return VmRef("guest", "guest")

    def driver(self) -> HypervisorDriver:
        return StorageDriver(Options(str(self._vm.folder)), {})

    def tracker(self, driver: HypervisorDriver) -> ChangeTracker:
        assert isinstance(driver, StorageDriver)
        return StorageTracker(driver)

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        source = self._vm.folder / "written"
        source.write_bytes(data)
        self._vm.write(f"write -s {source} {offset} {len(data)}")

    def read(self, url: str) -> bytes:
        return read_whole(url, self._vm.folder)

    def bitmap_extents(self, url: str, name: str) -> Sequence[Extent]:
        return extents_of(url, name, self._vm.folder)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[StorageLab]:
    with StorageVm(tmp_path, 8 * MIB) as vm:
        yield StorageLab(vm)


class TestBitmaps(ChangeTrackerConformance):
    """QEMU's own."""


class WrongLab(StorageLab):
    """A lab whose tracker tells what ``wrong`` makes of the truth."""

    def __init__(self, vm: StorageVm, wrong: Callable[[list[Extent]], list[Extent]]) -> None:
        super().__init__(vm)
        self._wrong = wrong

    def tracker(self, driver: HypervisorDriver) -> ChangeTracker:
        return WrongTracker(self, super().tracker(driver), self._wrong)


class WrongTracker:
    def __init__(self, lab: StorageLab, right: ChangeTracker, wrong: Callable[[list[Extent]], list[Extent]]) -> None:
        self._lab, self._right, self._wrong = lab, right, wrong

    def changed(self, snapshot: Snapshot, disk_id: str, since: str) -> Sequence[Extent] | DiskBitmap:
        told = self._right.changed(snapshot, disk_id, since)
        assert isinstance(told, DiskBitmap)
        return self._wrong(list(self._lab.bitmap_extents(snapshot.disks[0].urls[0], told.name)))

    def allocated(self, snapshot: Snapshot, disk_id: str) -> Sequence[Extent] | None:
        return []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda told: told[:-1], "was not named"),
        (lambda told: told[:2], "was not named"),
        (lambda told: [Extent(each.start, each.length // 2) for each in told], "was not named"),
        (lambda told: told[::-1], "do not ascend"),
        (lambda told: [*told, Extent(8 * MIB - 1, 2)], "past the end"),
    ],
    ids=["leaves out the last", "only the first page", "an end too early", "backwards", "past the end"],
)
def test_a_wrong_tracker_does_not_pass(
    tmp_path: Path, wrong: Callable[[list[Extent]], list[Extent]], says: str
) -> None:
    with StorageVm(tmp_path, 8 * MIB) as vm:
        lab = WrongLab(vm, wrong)
        driver = lab.driver()
        with pytest.raises(AssertionError, match=says):
            TestBitmaps().test_the_base_and_what_changed_make_the_disk(lab, driver)


def test_an_allocation_that_leaves_data_out_does_not_pass(tmp_path: Path) -> None:
    with StorageVm(tmp_path, 8 * MIB) as vm:
        lab = WrongLab(vm, list)
        with pytest.raises(AssertionError):
            TestBitmaps().test_what_is_called_unused_is_zeros(lab, lab.driver())
