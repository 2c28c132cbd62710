"""Ways to the disks of a simulated vCenter: what is read by each is what was frozen, and nothing stays behind."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import DiskDenied, DiskUnsupported, SnapshotFailed, SnapshotNotRemoved
from holdfast_plugins.api import Snapshot, SnapshotDisk, SnapshotRequest
from holdfast_plugins.hypervisors.vsphere import ProxyOptions, Transport, VsphereDriver
from holdfast_plugins.testkit import MemoryJournal
from lab.disks import host_for
from lab.proxy_devices import device
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import connected, instance_uuid, machine_of, reconfigured, run_task, service_of

MIB = 1 << 20


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        made.create("proxy", [MIB])
        yield made


@pytest.fixture
def vm(center: VCenter, request: pytest.FixtureRequest) -> Iterator[LabVm]:
    made = center.create(f"{request.node.name[:60]}{secrets.token_hex(4)}", [2 * MIB])
    center.write(made, 0, [(4096 * at, random.Random(at).randbytes(512)) for at in range(100)])
    yield made
    with service_of(center) as service:
        machine = machine_of(service, made)
        run_task(machine.RemoveAllSnapshots_Task())
        run_task(machine.PowerOffVM_Task())
        run_task(machine.Destroy_Task())
    center.assert_clean()
    assert center.state()["machines"]["proxy"]["disks"] == ["[LocalDS_0] proxy/proxy.vmdk"], "a disk is still attached"


@contextmanager
def taken(
    center: VCenter, vm: LabVm, journal: MemoryJournal, **options: Any
) -> Iterator[tuple[VsphereDriver, Snapshot, SnapshotDisk]]:
    """A snapshot; its removal is the test's business."""
    with connected(center, **options) as driver:
        ref = next(each for each in driver.list_vms() if each.name == vm.name)
        snapshot = driver.create_snapshot(SnapshotRequest(ref, "tag", ("scsi0:0",)), journal)
        yield driver, snapshot, snapshot.disks[0]


def read(disk: SnapshotDisk, folder: Path, center: VCenter, *paths: str) -> tuple[bytes, str]:
    """What a proxy reads by the first way that opens, and by which."""
    host = msgspec.structs.replace(host_for(folder, center.origin), disk_paths=paths)
    for url in disk.urls:
        try:
            opened = open_disk(url, host, disk.access)
        except Exception:  # noqa: BLE001, S112 - as a source does: the next one may open
            continue
        with closing(opened):
            buffer = bytearray(opened.size_bytes)
            opened.read_into(0, memoryview(buffer))
            return bytes(buffer), url.partition(":")[0]
    raise AssertionError(f"none of {disk.urls} opens")


def test_a_disk_is_attached_to_the_proxys_vm_and_read_as_a_device(center: VCenter, vm: LabVm, tmp_path: Path) -> None:
    journal, proxies = MemoryJournal(), {"near": ProxyOptions(vm="proxy")}
    with taken(center, vm, journal, proxies=proxies) as (driver, snapshot, disk):
        assert driver.near_proxies(driver.vm_info(snapshot.vm), disk.disk_id) == (("near",),)
        frozen = center.content(vm, 0)
        center.write(vm, 0, [(0, b"later")])
        told = driver.disk_for(snapshot, disk, "near", journal)
        assert [url.partition(":")[0] for url in told.urls] == ["block", "https"]
        assert [obligation.kind for obligation in journal.open.values()] == ["vsphere-snapshot", "vsphere-hotadd"]
        attached = center.state()["machines"]["proxy"]["disks"]
        assert attached[1:] == [f"[LocalDS_0] {vm.name}/{vm.name}.vmdk"]
        again = driver.disk_for(snapshot, disk, "near", journal)
        assert again.urls == told.urls[::-1], "the second attempt begins with the next way"
        assert center.state()["machines"]["proxy"]["disks"] == attached
        with device(told.urls[0], frozen, tmp_path):
            assert read(told, tmp_path, center, "/dev") == (frozen, "block")
        driver.remove_snapshot(snapshot, True, journal)
        assert not journal.open
        center.assert_clean(sessions=1)


def test_a_proxy_elsewhere_reads_over_https(center: VCenter, vm: LabVm, tmp_path: Path) -> None:
    journal, proxies = MemoryJournal(), {"near": ProxyOptions(vm="proxy")}
    with taken(center, vm, journal, proxies=proxies) as (driver, snapshot, disk):
        told = driver.disk_for(snapshot, disk, "elsewhere", journal)
        assert (told.urls, told.access) == (disk.urls, disk.access)
        assert read(told, tmp_path, center) == (center.content(vm, 0), "https")
        driver.remove_snapshot(snapshot, True, journal)


def test_a_session_that_has_ended_costs_an_attempt_and_no_more(center: VCenter, vm: LabVm, tmp_path: Path) -> None:
    """The cookie that a proxy was given opens nothing any more; the next attempt gets another."""
    journal = MemoryJournal()
    with taken(center, vm, journal) as (driver, snapshot, disk):
        center.expire_sessions()
        with pytest.raises(DiskDenied, match="401"):
            open_disk(disk.urls[0], host_for(tmp_path, center.origin), disk.access)
        told = driver.disk_for(snapshot, disk, "any", journal)
        assert read(told, tmp_path, center) == (center.content(vm, 0), "https")
        driver.remove_snapshot(snapshot, True, journal)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("ReconfigVM_Task", "FileFault", vm="proxy"),
        Fault("ReconfigVM_Task", "NoPermission", vm="proxy", call=True),
        Fault("ReconfigVM_Task", "GenericVmConfigFault", vm="proxy", after=True),
    ],
    ids=["fails", "is not permitted", "fails late"],
)
def test_a_disk_that_cannot_be_attached_is_read_another_way(
    center: VCenter, vm: LabVm, tmp_path: Path, fault: Fault
) -> None:
    journal = MemoryJournal()
    with taken(center, vm, journal, proxies={"near": ProxyOptions(vm="proxy")}) as (driver, snapshot, disk):
        with center.faults(fault):
            told = driver.disk_for(snapshot, disk, "near", journal)
        assert read(told, tmp_path, center) == (center.content(vm, 0), "https")
        driver.remove_snapshot(snapshot, True, journal)
        assert not journal.open


def test_a_proxy_that_is_being_reconfigured_is_waited_for(center: VCenter, vm: LabVm) -> None:
    journal = MemoryJournal()
    with taken(center, vm, journal, proxies={"near": ProxyOptions(vm="proxy")}) as (driver, snapshot, disk):
        with center.faults(Fault("ReconfigVM_Task", "ConcurrentAccess", vm="proxy")):
            assert driver.disk_for(snapshot, disk, "near", journal).urls[0].startswith("block:")
        driver.remove_snapshot(snapshot, True, journal)


@pytest.mark.parametrize(
    ("extra", "proxy"),
    [({"disk.EnableUUID": "FALSE"}, "proxy"), ({}, "nobody"), ({}, "")],
    ids=["unnamed", "absent", "itself"],
)
def test_a_proxy_that_could_not_know_the_disk_is_not_given_it(
    center: VCenter, vm: LabVm, extra: dict[str, str], proxy: str
) -> None:
    """It tells its guest no UUIDs, it does not exist, or it is the VM that is backed up."""
    journal, lab_proxy = MemoryJournal(), LabVm("proxy", center.find("proxy"), ())
    reconfigured(center, lab_proxy, extra)
    try:
        options = {"near": ProxyOptions(vm=proxy or vm.name)}
        with taken(center, vm, journal, proxies=options) as (driver, snapshot, disk):
            assert driver.disk_for(snapshot, disk, "near", journal).urls == disk.urls
            driver.remove_snapshot(snapshot, True, journal)
    finally:
        reconfigured(center, lab_proxy, {"disk.EnableUUID": "TRUE"})


def test_two_disks_with_one_uuid_are_never_on_one_proxy(center: VCenter, vm: LabVm) -> None:
    """Two sessions back the same VM up: on the proxy both disks would be called the same."""
    first, second = MemoryJournal(), MemoryJournal()
    options = {"near": ProxyOptions(vm="proxy", vddk=True)}
    with (
        taken(center, vm, first, proxies=options) as (driver, snapshot, disk),
        taken(center, vm, second, proxies=options) as (other, later, their_disk),
    ):
        assert driver.disk_for(snapshot, disk, "near", first).urls[0].startswith("block:")
        told = other.disk_for(later, their_disk, "near", second)
        assert [url.partition(":")[0] for url in told.urls] == ["vddk"], "what lies over a snapshot is no file"
        other.remove_snapshot(later, True, second)
        driver.remove_snapshot(snapshot, True, first)
        assert not (first.open or second.open)


def test_what_a_dead_session_left_attached_is_detached_before_its_snapshot_goes(center: VCenter, vm: LabVm) -> None:
    journal = MemoryJournal()
    with taken(center, vm, journal, proxies={"near": ProxyOptions(vm="proxy")}) as (driver, snapshot, disk):
        driver.disk_for(snapshot, disk, "near", journal)
    with connected(center) as later:  # knows nothing of proxies
        for obligation in reversed(journal.open.values()):
            later.fulfil(obligation.kind, obligation.data)
            later.fulfil(obligation.kind, obligation.data)
        with pytest.raises(SnapshotNotRemoved):
            later.fulfil("vsphere-hotadd", {"file": "[LocalDS_0] proxy/proxy.vmdk"})
        own = {"proxy": instance_uuid(center, LabVm("proxy", center.find("proxy"), ())), "proxy_name": "proxy"}
        later.fulfil("vsphere-hotadd", own | {"file": "[LocalDS_0] proxy/proxy.vmdk"})  # its own disk: never


def test_a_mounted_datastore_is_read_as_files(center: VCenter, vm: LabVm, tmp_path: Path) -> None:
    mount = center.datastore("LocalDS_0")
    journal, options = MemoryJournal(), {"near": ProxyOptions(mounts={"LocalDS_0": str(mount)})}
    with taken(center, vm, journal, proxies=options) as (driver, snapshot, disk):
        assert driver.near_proxies(driver.vm_info(snapshot.vm), disk.disk_id) == (("near",),)
        told = driver.disk_for(snapshot, disk, "near", journal)
        assert read(told, tmp_path, center, str(mount)) == (center.content(vm, 0), "file")
        assert read(told, tmp_path, center) == (center.content(vm, 0), "https"), "it may not open files there"
        driver.remove_snapshot(snapshot, True, journal)


def test_a_vm_with_a_foreign_snapshot_needs_a_proxy_that_reads_more_than_files(center: VCenter, vm: LabVm) -> None:
    journal, proxies = MemoryJournal(), {"near": ProxyOptions(vm="proxy")}
    with service_of(center) as service:
        run_task(machine_of(service, vm).CreateSnapshot_Task("theirs", "", False, False))
    with pytest.raises(DiskUnsupported, match="somebody else's"), taken(center, vm, journal):
        pass
    with taken(center, vm, journal, proxies=proxies) as (driver, snapshot, disk):
        told = driver.disk_for(snapshot, disk, "near", journal)
        assert [url.partition(":")[0] for url in told.urls] == ["block"]
        with pytest.raises(SnapshotFailed, match="somebody else's"):
            driver.disk_for(snapshot, disk, "elsewhere", journal)
        driver.remove_snapshot(snapshot, True, journal)
    with taken(center, vm, journal, proxies=proxies, transports=(Transport.HOTADD,)) as (driver, snapshot, disk):
        assert disk.urls[0].startswith("block:")
        driver.remove_snapshot(snapshot, True, journal)
