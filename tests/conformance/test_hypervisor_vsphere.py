"""The hypervisor `vsphere` passes the suites against a simulated vCenter with real disks, and its tracker too."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from holdfast_plugins.api import ChangeTracker, HypervisorDriver, RestoreDisk, VmRef
from holdfast_plugins.hypervisors import vsphere
from holdfast_plugins.hypervisors.vsphere import CbtTracker, VsphereDriver
from holdfast_plugins.testkit import (
    ChangeTrackerConformance,
    ChangeTrackerLab,
    HypervisorConformance,
    HypervisorLab,
)
from lab.ports import free_port
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import (
    datastore_files,
    destroy_named,
    grown,
    instance_uuid,
    options_of,
    plugged,
    read_url,
    secret_of,
    unplugged,
    write_url,
)

MIB = 1 << 20
RESTORED = "holdfast-restored"
"""What the suite calls the VMs that it restores."""


FAULTS = {
    "the snapshot fails": Fault("CreateSnapshotEx_Task", "FileFault"),
    "the snapshot fails when it is there": Fault("CreateSnapshotEx_Task", "SnapshotFault", after=True),
    "the server refuses": Fault("CreateSnapshotEx_Task", "NoPermission", call=True),
}


class VsphereLab(HypervisorLab, ChangeTrackerLab):
    """A VM of two disks; it runs, unless it may have to be replaced."""

    takes_several_snapshots = False  # what lies over a snapshot cannot be read as a file
    plugin = vsphere
    resizes = True
    plugs_disks = True
    faults = tuple(FAULTS)

    def __init__(self, center: VCenter, name: str, folder: Path, *, off: bool = False) -> None:
        self._center, self._folder = center, folder
        self._guest: LabVm = center.create(name, [3 * MIB, MIB], off=off)
        self._uuid = instance_uuid(center, self._guest)
        self.secrets = (center.password,)

    @property
    def vm(self) -> VmRef:
        return VmRef(self._uuid, self._guest.name)

    def driver(self) -> HypervisorDriver:
        return VsphereDriver(options_of(self._center), secret_of(self._center))

    def unreachable(self) -> HypervisorDriver:
        return VsphereDriver(options_of(self._center, port=free_port()), secret_of(self._center))

    def fault(self, name: str) -> AbstractContextManager[None]:
        return self._center.faults(FAULTS[name])

    def grow(self, disk_id: str, size_bytes: int) -> None:
        grown(self._center, self._guest, int(disk_id.rpartition(":")[2]), size_bytes)

    def plug(self) -> str:
        self._plugged = plugged(self._center, self._guest, MIB)
        return "ide0:1"

    def unplug(self, disk_id: str) -> None:
        unplugged(self._center, self._guest, self._plugged)

    def tracker(self, driver: HypervisorDriver) -> ChangeTracker:
        assert isinstance(driver, VsphereDriver)
        return CbtTracker(driver)

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        self._center.write(self._guest, int(disk_id.rpartition(":")[2]), [(offset, data)])

    def read(self, url: str) -> bytes:
        return read_url(self._center, url, self._folder)

    def write_restored(self, disk: RestoreDisk, data: bytes) -> None:
        write_url(self._center, disk.url, data, self._folder, create=disk.create)

    def traces(self) -> Hashable:
        """Names are of the simulator's machines; its datastores are folders here."""
        state = self._center.state()
        machines = repr(sorted(state["machines"].items()))
        return machines, tuple(state["deltas"]), state["tasks"], datastore_files(self._center)

    def clear(self) -> None:
        """Let the next test restore under the same name."""
        for name in set(self._center.state()["machines"]) & {RESTORED, self._guest.name}:
            destroy_named(self._center, name)


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


class TestVsphere(HypervisorConformance):
    @pytest.fixture
    def lab(self, request: pytest.FixtureRequest, center: VCenter, tmp_path: Path) -> Iterator[VsphereLab]:
        off = any(word in request.node.name for word in ("restore", "replaced"))  # a VM that runs is not replaced
        lab = VsphereLab(center, tmp_path.name, tmp_path, off=off)
        yield lab
        lab.clear()


class TestCbt(ChangeTrackerConformance):
    @pytest.fixture
    def lab(self, center: VCenter, tmp_path: Path) -> VsphereLab:
        return VsphereLab(center, tmp_path.name, tmp_path)
