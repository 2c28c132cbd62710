"""VMs that run from an export: QEMU itself writes through their devices, and what they get is what they wrote."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast_agent.errors import AlreadyExists, Cancelled, UsageError
from holdfast_plugins.api import DiskInfo, RunsInstantly, ServedDisk, VmInfo, VmRef
from holdfast_plugins.hypervisors.libvirt import LibvirtDriver
from holdfast_plugins.hypervisors.libvirt.instant import INSTANT, MIGRATION, copied
from holdfast_plugins.testkit import MemoryJournal
from lab import file_trees as trees
from lab.exports import Export, exported
from lab.guest import PLAIN, build
from lab.libvirt_guest import LibvirtGuest
from lab.libvirt_host import LibvirtHost, LibvirtVm, libvirt_daemon
from lab.movers import Site

MIB = 1 << 20
SIZE = 8 * MIB
WRITES = "until [ -e /stop ]; do dd if=/dev/zero of=/written bs=64k count=4 conv=fsync; done; touch /finished"
INFO = VmInfo(VmRef("1", "web"), (DiskInfo("vda", "vda", SIZE), DiskInfo("vdb", "vdb", SIZE)))


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as host:
        yield host


@pytest.fixture
def driver(host: LibvirtHost) -> Iterator[LibvirtDriver]:
    with host.driver() as driver:
        yield driver
        host.clear()


class Point:
    """A restore point with two disks, and the export that serves them."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder)
        self.content = {name: Random(name).randbytes(SIZE // 2).ljust(SIZE, b"\0") for name in ("vda", "vdb")}
        images = {name: folder / f"{name}.raw" for name in self.content}
        for name, image in images.items():
            image.write_bytes(self.content[name])
        self.disks = trees.stored(self.site, images)

    @contextlib.contextmanager
    def served(self) -> Iterator[Export]:
        with exported(self.site, self.disks, writable=True, keep=True) as export:
            yield export

    def as_disks(self, export: Export) -> list[ServedDisk]:
        return [ServedDisk(name, name, SIZE, str(export.socket), name) for name in self.content]


@pytest.fixture
def point(tmp_path: Path) -> Point:
    return Point(tmp_path)


def start(driver: LibvirtDriver, host: LibvirtHost, point: Point, export: Export) -> LibvirtVm:
    journal = MemoryJournal()
    driver.start_instant("web-instant", INFO, point.as_disks(export), journal)
    assert not journal.open
    vm = LibvirtVm.found(host, "web-instant", point.content)
    assert vm.domain.isActive()
    return vm


def images(host: LibvirtHost) -> list[Path]:
    return sorted(host.images.iterdir())


def test_a_vm_runs_from_its_point_and_moves_to_its_own_disks_while_it_runs(
    driver: LibvirtDriver, host: LibvirtHost, point: Point
) -> None:
    assert isinstance(driver, RunsInstantly)
    with point.served() as export:
        vm = start(driver, host, point, export)
        vm.write("vda", 1000, b"before" * 100)
        journal = MemoryJournal()
        progress: list[tuple[int, int]] = []

        def told(done: int, whole: int) -> bool:
            if not progress:
                vm.write("vdb", 5 * MIB, b"meanwhile" * 100)
            progress.append((done, whole))
            return False

        driver.migrate_instant(VmRef(vm.uuid, vm.name), journal, told)
        assert not journal.open
        assert progress
    vm.write("vda", 7 * MIB, b"afterwards" * 50)
    assert len(images(host)) == 2
    for target in vm.content:
        assert (vm.read_image(target) == vm.content[target]) is True
    with pytest.raises(UsageError, match="disks of its own"):
        driver.stop_instant(VmRef(vm.uuid, vm.name), MemoryJournal())
    vm.domain.destroy()
    vm.domain.createWithFlags(1)  # paused; with the definition that is kept
    assert "nbd" not in vm.domain.XMLDesc()


@pytest.mark.timeout(240)  # the first test of a fresh checkout builds the guest
def test_a_server_that_dies_is_a_pause_for_a_guest(driver: LibvirtDriver, host: LibvirtHost, tmp_path: Path) -> None:
    """A real one: it writes while nobody serves its disk, is paused, and goes on without having heard of an error."""
    image, site = build(PLAIN), Site(tmp_path)
    disks = trees.stored(site, {"vda": image.disk})
    original = LibvirtGuest(host, "web", image)
    info = driver.vm_info(original.vm)
    original.domain.destroy()
    with exported(site, disks, writable=True, keep=True) as export:
        served = [ServedDisk("vda", "vda", image.disk.stat().st_size, str(export.socket), "vda")]
        vm = driver.start_instant("web-instant", info, served, MemoryJournal())
        guest = LibvirtGuest.found(host, vm)
        guest.wait_up()
        guest.agent.run("guest-exec", path="/bin/sh", arg=["-c", WRITES])
        export.mover.process.kill()
        export.mover.process.wait()
        domain = driver._connection.domain(vm)
        domain.wait(domain.paused_by_error, "the guest is not paused", 60)
        driver.resume_instant(vm)  # too early: it is paused again
        domain.wait(domain.paused_by_error, "the guest is not paused again", 60)
    with exported(site, disks, writable=True, keep=True):
        domain.wait(lambda: driver.resume_instant(vm) or domain.running(), "the guest does not go on", 60)
        told = guest.agent.shell(
            "touch /stop; until [ -e /finished ]; do sleep 0.1; done; dmesg | grep -c 'I/O error' || :"
        )
        assert told.strip() == "0"
        driver.stop_instant(vm, MemoryJournal())
    assert [each.name for each in driver.list_vms()] == ["web"]
    driver.stop_instant(vm, MemoryJournal())  # it is not there: success


def test_a_migration_that_is_given_up_leaves_the_vm_as_it_was(
    driver: LibvirtDriver, host: LibvirtHost, point: Point
) -> None:
    with point.served() as export:
        vm = start(driver, host, point, export)
        journal = MemoryJournal()
        with pytest.raises(Cancelled):
            driver.migrate_instant(VmRef(vm.uuid, vm.name), journal, lambda done, whole: True)
        assert not journal.open
        assert images(host) == []
        vm.write("vda", 0, b"on" * 256)
        driver.migrate_instant(VmRef(vm.uuid, vm.name), journal, lambda done, whole: False)
        assert len(images(host)) == 2
        driver.migrate_instant(VmRef(vm.uuid, vm.name), journal, lambda done, whole: False)  # nothing is left to do
        assert len(images(host)) == 2


def test_what_crashes_leave_is_cleared_up(driver: LibvirtDriver, host: LibvirtHost, point: Point) -> None:
    """Copies in their midst, one of which has taken its disk's place; a VM that nobody was told of."""
    with point.served() as export:
        vm = start(driver, host, point, export)
        made = "0123456789abcdef"
        files = {target: f"web-{target}-{made}.qcow2" for target in point.content}
        domain = driver._connection.domain(VmRef(vm.uuid, ""))
        for target, name in files.items():
            domain.begin_copy(target, str(host.images / name), "qcow2")
        domain.wait(lambda: "vda" in copied(domain), "the copy is not ready", 30)
        domain.pivot("vda")
        data = {"uuid": vm.uuid, "directory": str(host.images), "token": made, "files": json.dumps([*files.values()])}
        driver.fulfil(MIGRATION, data)
        driver.fulfil(MIGRATION, data)
        assert [path.name for path in images(host)] == [files["vda"]]
        vm.write("vdb", 0, b"served" * 100)
        driver.fulfil(INSTANT, {"uuid": vm.uuid, "socket": "/another"})
        assert vm.domain.isActive(), "it is not the one that was promised"
        driver.fulfil(INSTANT, {"uuid": vm.uuid, "socket": str(export.socket)})
        assert driver.list_vms() == []


def test_what_cannot_be_started_leaves_nothing(driver: LibvirtDriver, host: LibvirtHost, point: Point) -> None:
    journal = MemoryJournal()
    with point.served() as export:
        disks = point.as_disks(export)
    with pytest.raises(UsageError, match="does not start it"):
        driver.start_instant("web-instant", INFO, disks, journal)
    assert (driver.list_vms(), journal.open) == ([], {})
    taken = host.vm("taken", {"vda": ("qcow2", SIZE)})
    with pytest.raises(AlreadyExists):
        driver.start_instant("taken", INFO, disks, journal)
    assert [vm.vm_id for vm in driver.list_vms()] == [taken.uuid]
