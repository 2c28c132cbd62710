"""The hypervisor `qemu` and its bitmaps pass the suites, whatever the images and the way to the monitor."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import pytest

from holdfast_agent.model.geometry import Extent
from holdfast_plugins.api import ChangeTracker, HypervisorDriver, VmRef
from holdfast_plugins.hypervisors import qemu
from holdfast_plugins.hypervisors.qemu import BitmapTracker, Fleecing, QemuDriver, QemuOptions
from holdfast_plugins.testkit import (
    BackupConformance,
    ChangeTrackerConformance,
    ChangeTrackerLab,
    HypervisorLab,
    ObligationSuite,
    SnapshotSuite,
)
from lab.frozen_disks import extents_of, read_whole
from lab.ports import free_port
from lab.qemu_vms import MIB, QemuVm

DISKS = {"root": ("qcow2", 3 * MIB + 512), "data": ("raw", MIB)}


class QemuLab(HypervisorLab, ChangeTrackerLab):
    """A QEMU with a disk of each kind."""

    takes_several_snapshots = False
    restores = (
        False  # a restored VM is one of this hypervisor's once it is started: tests/integration/test_qemu_backups.py
    )
    resizes = True
    vm = VmRef("vm", "vm")
    plugin = qemu

    def __init__(self, running: QemuVm, nbd: str = "") -> None:
        self.running = running
        self._nbd = nbd
        self._fleecing = Fleecing.JOB if nbd else Fleecing.FILTER

    def driver(self) -> HypervisorDriver:
        vms, scratch = (f"vm={self.running.monitor}",), str(self.running.scratch)
        return QemuDriver(QemuOptions(vms=vms, scratch_dir=scratch, nbd=self._nbd, fleecing=self._fleecing), {})

    def tracker(self, driver: HypervisorDriver) -> ChangeTracker:
        assert isinstance(driver, QemuDriver)
        return BitmapTracker(driver)

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        self.running.write(disk_id, offset, data)

    def grow(self, disk_id: str, size_bytes: int) -> None:
        self.running.resize(disk_id, size_bytes)

    def read(self, url: str) -> bytes:
        return read_whole(url, self.running.scratch)

    def bitmap_extents(self, url: str, name: str) -> Sequence[Extent]:
        return extents_of(url, name, self.running.scratch)

    def traces(self) -> Hashable:
        return self.running.traces()


@contextlib.contextmanager
def qemu_lab(folder: Path, tcp: bool) -> Iterator[QemuLab]:
    """Two ways of everything: the monitor, the export, and the copying of old data."""
    with QemuVm(folder, DISKS, tcp=free_port() if tcp else 0) as running:
        yield QemuLab(running, f"127.0.0.1:{free_port()}" if tcp else "")


class TestQemu(BackupConformance):
    """The driver, by Unix sockets and the filter."""

    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[QemuLab]:
        with qemu_lab(tmp_path, tcp=False) as lab:
            yield lab


class TestQemuOverTcp(SnapshotSuite, ObligationSuite):
    """The driver, by TCP and the job."""

    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[QemuLab]:
        with qemu_lab(tmp_path, tcp=True) as lab:
            yield lab


class TestQemuBitmaps(ChangeTrackerConformance):
    @pytest.fixture(params=["unix, filter", "tcp, job"])
    def lab(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QemuLab]:
        with qemu_lab(tmp_path, tcp=request.param == "tcp, job") as lab:
            yield lab
