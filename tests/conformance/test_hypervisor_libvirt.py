"""The hypervisor `libvirt` passes the suites against a real libvirtd: every way to take a snapshot, and its tracker."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import pytest

from holdfast_agent.disks.open import open_target
from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import ChangeTracker, HypervisorDriver, RestoreDisk, VmRef
from holdfast_plugins.hypervisors import libvirt
from holdfast_plugins.hypervisors.libvirt import (
    CheckpointTracker,
    LibvirtDriver,
    LibvirtOptions,
    LibvirtSnapshotOptions,
    Method,
)
from holdfast_plugins.testkit import (
    BackupConformance,
    ChangeTrackerConformance,
    ChangeTrackerLab,
    HypervisorLab,
    ObligationSuite,
    RestoreSuite,
    SnapshotSuite,
)
from lab.disks import host_for
from lab.frozen_disks import extents_of, read_whole
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon

MIB = 1 << 20


class LibvirtLab(HypervisorLab, ChangeTrackerLab):
    """A VM of two disks on a libvirtd, running or not."""

    takes_several_snapshots = False
    plugin = libvirt

    def __init__(self, host: LibvirtHost, image_format: str, method: Method, running: bool) -> None:
        self._host, self._method, self._runs = host, method, running
        self.freezes = running  # an image of a VM that is shut off is kept from being written to
        self.restores = not running  # a VM that runs is not replaced
        self.resizes = running
        self.guest: LibvirtVm = host.vm("guest", {"vda": (image_format, 3 * MIB), "vdb": (image_format, MIB)})
        if running:
            self.guest.start()

    @property
    def vm(self) -> VmRef:
        return VmRef(self.guest.uuid, self.guest.name)

    def driver(self) -> HypervisorDriver:
        return LibvirtDriver(LibvirtOptions(**self._host.options()), {})

    def tracker(self, driver: HypervisorDriver) -> ChangeTracker:
        assert isinstance(driver, LibvirtDriver)
        return CheckpointTracker(driver)

    def snapshot_options(self) -> LibvirtSnapshotOptions:
        return LibvirtSnapshotOptions(method=self._method)

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        if self._runs:
            self.guest.write(disk_id, offset, data)
            return
        self.guest.start()
        self.guest.write(disk_id, offset, data)
        self.guest.stop()

    def grow(self, disk_id: str, size_bytes: int) -> None:
        self.guest.resize(disk_id, size_bytes)

    def read(self, url: str) -> bytes:
        return read_whole(url, self._host.folder)

    def write_restored(self, disk: RestoreDisk, data: bytes) -> None:
        assert not disk.create, "the driver makes the image, for it is qcow2"
        target = open_target(disk.url, host_for(self._host.folder), len(data), create=False, overwrite=False)
        target.write(0, data)
        target.finish()

    def bitmap_extents(self, url: str, name: str) -> Sequence[Extent]:
        return extents_of(url, name, self._host.folder)

    def traces(self) -> Hashable:
        """Checkpoints are left out: the last one is kept for good, to be tracked from."""
        domains = {(each.name(), each.isActive(), each.XMLDesc(2)) for each in self._host.raw.listAllDomains()}
        jobs = self.guest.domain.isActive() and self.guest.monitor("query-jobs")
        exports = self.guest.domain.isActive() and self.guest.monitor("query-block-exports")
        files = frozenset(map(str, [*self._host.scratch.iterdir(), *self._host.images.iterdir()]))
        return frozenset(domains), files, repr(jobs), repr(exports)


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as made:
        yield made


@pytest.fixture
def empty(host: LibvirtHost) -> Iterator[LibvirtHost]:
    yield host
    host.clear()


class TestBackupJobs(BackupConformance):
    @pytest.fixture
    def lab(self, empty: LibvirtHost) -> LibvirtLab:
        return LibvirtLab(empty, "qcow2", Method.BACKUP, running=True)


class TestOverlays(SnapshotSuite, ObligationSuite):
    @pytest.fixture
    def lab(self, empty: LibvirtHost) -> LibvirtLab:
        return LibvirtLab(empty, "raw", Method.SNAPSHOT, running=True)


class TestShutOff(SnapshotSuite, ObligationSuite, RestoreSuite):
    """A VM that runs is not replaced, so restores are tested with one that is shut off."""

    @pytest.fixture
    def lab(self, empty: LibvirtHost) -> LibvirtLab:
        return LibvirtLab(empty, "qcow2", Method.AUTO, running=False)


class TestCheckpoints(ChangeTrackerConformance):
    @pytest.fixture
    def lab(self, empty: LibvirtHost) -> LibvirtLab:
        return LibvirtLab(empty, "qcow2", Method.BACKUP, running=True)
