"""VMs whose QEMU does not run: read where they lie, kept from being started, and believed only if nobody wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast_agent.errors import ChangeTrackingLost, HypervisorUnreachable, SnapshotFailed
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_plugins.api import Snapshot, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.qemu import BitmapTracker, QemuDriver, QemuOptions
from holdfast_plugins.testkit import MemoryJournal
from lab.processes import program
from lab.qemu_backups import VM, Backups
from lab.qemu_vms import MIB, QemuVm
from lab.waiting import listens, wait_until

DISKS = ("root", "data")


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[QemuVm]:
    """It has run and is off."""
    with QemuVm(tmp_path, {"root": ("qcow2", MIB + 512), "data": ("raw", MIB)}) as running:
        running.scribble(Random(5), 20)
        Backups(running).back_up()
        running.stop()
        yield running


def take(driver: QemuDriver, journal: MemoryJournal) -> Snapshot:
    return driver.create_snapshot(SnapshotRequest(VM, "test", DISKS), journal)


def test_its_images_are_read_and_its_start_is_refused_meanwhile(vm: QemuVm) -> None:
    driver, journal = Backups(vm).another_driver(), MemoryJournal()
    info = driver.vm_info(VM)
    assert not info.running and {disk.disk_id: disk.size_bytes for disk in info.disks} == {
        "root": MIB + 512,
        "data": MIB,
    }
    assert not journal.open
    snapshot = take(driver, journal)
    assert "the VM is off" in snapshot.note
    urls = {disk.disk_id: parse_disk_url(disk.urls[0]) for disk in snapshot.disks}
    assert urls["root"].path == str(vm.image("root")) and urls["root"].option("format") == "qcow2"
    with pytest.raises(AssertionError, match="did not start"):
        vm.start()
    assert "Failed to get" in (vm.folder / "qemu.log").read_text()
    driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, committed=True, journal=journal)
    driver.remove_snapshot(snapshot, committed=True, journal=journal)
    vm.start()


def test_what_is_tracked_over_the_time_that_it_was_off(vm: QemuVm) -> None:
    driver, journal = Backups(vm).another_driver(), MemoryJournal()
    tracker = BitmapTracker(driver)
    first = take(driver, journal)
    (stamp, *_) = [disk.change_id or "" for disk in first.disks]
    with pytest.raises(ChangeTrackingLost, match="the VM is off"):
        tracker.changed(first, "root", "holdfast-00000000-00000000-000000000000")
    driver.remove_snapshot(first, committed=True, journal=journal)
    second = take(driver, journal)
    assert tracker.changed(second, "root", stamp) == [], "nobody wrote to it"
    driver.remove_snapshot(second, committed=True, journal=journal)
    vm.start()
    third = take(driver, journal)
    with pytest.raises(ChangeTrackingLost, match="was off at the last backup"):
        tracker.changed(third, "root", stamp)
    driver.remove_snapshot(third, committed=True, journal=journal)
    assert not journal.open


def test_somebody_writes_to_an_image_without_a_lock(vm: QemuVm) -> None:
    driver, journal = Backups(vm).another_driver(), MemoryJournal()
    snapshot = take(driver, journal)
    with vm.image("data").open("r+b") as image:
        image.write(b"late")
    with pytest.raises(SnapshotFailed, match="data was written to while the VM was off"):
        driver.check_snapshot(snapshot)
    driver.remove_snapshot(snapshot, committed=False, journal=journal)


def test_a_qemu_whose_monitor_is_elsewhere_is_noticed(vm: QemuVm) -> None:
    command = ["qemu-nbd", "--persistent", "--format=raw", f"--socket={vm.folder / 'nbd'}", vm.image("data")]
    with program(command):
        wait_until(lambda: listens(vm.folder / "nbd"), "qemu-nbd to listen")
        # It listens before it has the image open, but answers only after that.
        url = f"nbd+unix:///?socket={vm.folder / 'nbd'}"
        subprocess.run(["qemu-io", "-f", "raw", "-c", "length", url], check=True, stdout=subprocess.DEVNULL)
        with pytest.raises(SnapshotFailed, match="is open for writing in another process"):
            take(Backups(vm).another_driver(), MemoryJournal())


def test_one_that_was_never_seen_is_told(tmp_path: Path) -> None:
    driver = QemuDriver(QemuOptions(vms=(f"vm=unix:{tmp_path}/vm.qmp",), scratch_dir=str(tmp_path)), {})
    with pytest.raises(HypervisorUnreachable, match="its QEMU does not run"):
        driver.vm_info(VM)


def test_a_vm_of_a_directory_stays_in_the_inventory_as_long_as_its_images_do(vm: QemuVm) -> None:
    vm.start()
    driver = QemuDriver(QemuOptions(sockets=str(vm.folder), scratch_dir=str(vm.scratch)), {})
    listed = driver.list_vms()
    assert VM in listed
    driver.vm_info(VM)
    vm.stop()
    assert not (vm.folder / "vm.qmp").exists()
    assert driver.list_vms() == [VM] and not driver.vm_info(VM).running
    vm.image("data").unlink()
    assert VmRef("vm", "vm") not in driver.list_vms()


def test_a_vm_that_another_job_backs_up_is_described_as_it_is_without_that(vm: QemuVm) -> None:
    vm.start()
    backups = Backups(vm)
    before = backups.driver.vm_info(VM)
    snapshot = backups.snapshot()
    assert backups.another_driver().vm_info(VM) == before
    backups.remove(snapshot)
