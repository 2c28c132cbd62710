"""The fake hypervisor that plugin authors test with keeps the promises itself; and its faults are what they say."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from holdfast_agent.errors import ChangeTrackingLost, HypervisorUnreachable, SnapshotFailed
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import ChangeTracker, HypervisorDriver, RestoreDisk, SnapshotRequest, VmRef
from holdfast_plugins.testkit import (
    ChangeTrackerConformance,
    ChangeTrackerLab,
    FakeDriver,
    FakeServer,
    FakeTracker,
    Fault,
    HypervisorConformance,
    HypervisorLab,
    MemoryJournal,
    ServerRefused,
    fake,
)


class FakeLab(HypervisorLab, ChangeTrackerLab):
    plugin = fake
    resizes = True
    plugs_disks = True
    _orders: ClassVar[dict[str, tuple[str, Fault]]] = {
        "it refuses": ("snapshot", Fault(ServerRefused("no space left"))),
        "it is cut off before": ("snapshot", Fault(ConnectionError("reset"))),
        "its answer is lost": ("snapshot", Fault(ConnectionError("reset"), after=True)),
        "it has no name to give": ("new_name", Fault(ServerRefused("too many"))),
    }
    faults = tuple(_orders)

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        ((self._id, vm),) = server.vms.items()
        self._name = vm.name

    @property
    def vm(self) -> VmRef:
        return VmRef(self._id, self._name)

    def driver(self) -> HypervisorDriver:
        return FakeDriver(self.server)

    def unreachable(self) -> HypervisorDriver:
        server = FakeServer(self.server.directory)
        server.online = False
        return FakeDriver(server)

    def tracker(self, driver: HypervisorDriver) -> ChangeTracker:
        assert isinstance(driver, FakeDriver)
        return FakeTracker(driver)

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        self.server.write(self._id, disk_id, offset, data)

    def read(self, url: str) -> bytes:
        return Path(parse_disk_url(url).path).read_bytes()

    def write_restored(self, disk: RestoreDisk, data: bytes) -> None:
        assert not disk.create
        Path(parse_disk_url(disk.url).path).write_bytes(data)

    def grow(self, disk_id: str, size_bytes: int) -> None:
        with self.server.vms[self._id].disks[disk_id].path.open("r+b") as file:
            file.truncate(size_bytes)

    def plug(self) -> str:
        self.server.add_disk(self._id, "between", 4096)
        return "between"

    def unplug(self, disk_id: str) -> None:
        self.server.remove_disk(self._id, disk_id)

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        call, fault = self._orders[name]
        self.server.faults.order(call, fault)
        yield
        assert not self.server.faults.left()

    def traces(self) -> Hashable:
        return self.server.traces()


@pytest.fixture
def lab(fake_hypervisor: FakeServer) -> FakeLab:
    return FakeLab(fake_hypervisor)


class TestFake(HypervisorConformance):
    """The driver."""


class TestFakeTracker(ChangeTrackerConformance):
    """The tracker."""


def test_a_lost_log_is_told(lab: FakeLab) -> None:
    driver, journal = FakeDriver(lab.server), MemoryJournal()
    first = driver.create_snapshot(SnapshotRequest(lab.vm, "test", ("root",)), journal)
    lab.server.forget_changes()
    second = driver.create_snapshot(SnapshotRequest(lab.vm, "test", ("root",)), journal)
    with pytest.raises(ChangeTrackingLost, match="does not reach back"):
        FakeTracker(driver).changed(second, "root", first.disks[0].change_id or "")


def test_faults_come_in_the_order_in_which_they_were_ordered(lab: FakeLab) -> None:
    driver = FakeDriver(lab.server)
    seen: list[str] = []
    lab.server.faults.order("names", Fault(ServerRefused("no")), skip=1)
    lab.server.faults.order("names", Fault(then=lambda: seen.append("called back")))
    assert driver.list_vms() == [lab.vm]
    with pytest.raises(HypervisorUnreachable, match="no"):
        driver.list_vms()
    assert driver.list_vms() == [lab.vm]
    assert seen == ["called back"]


def test_a_fault_that_never_happened_fails_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from holdfast_plugins.testkit import Fault

        def test_nothing(fake_hypervisor):
            fake_hypervisor.faults.order("snapshot", Fault())

        def test_something(fake_hypervisor):
            fake_hypervisor.faults.order("ping", Fault())
            fake_hypervisor.ping()
        """
    )
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2, errors=1)


def test_a_driver_that_is_cut_off_leaves_what_the_journal_knows(lab: FakeLab) -> None:
    driver, journal = FakeDriver(lab.server), MemoryJournal()
    before = lab.traces()
    lab.server.faults.order("snapshot", Fault(ConnectionError("reset"), after=True))
    with pytest.raises(SnapshotFailed, match="reset"):
        driver.create_snapshot(SnapshotRequest(lab.vm, "test", ("root",)), journal)
    assert lab.traces() != before
    for promise in journal.open.values():
        driver.fulfil(promise.kind, promise.data)
    assert lab.traces() == before
