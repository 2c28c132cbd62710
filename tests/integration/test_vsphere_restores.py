"""Restores over vSphere: the machine as it was, where it is wanted, and nothing left of one that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import AlreadyExists, DiskInUse, DiskUnsupported, HoldfastError, UsageError
from holdfast_plugins.api import DiskInfo, RestoreTarget, VmInfo, VmRef
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions
from holdfast_plugins.hypervisors.vsphere import Identity, VsphereDriver
from holdfast_plugins.testkit import MemoryJournal
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import (
    connected,
    datastore_files,
    destroy_named,
    machine_of,
    named,
    run_task,
    service_of,
    write_url,
)

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture
def vm(center: VCenter, request: pytest.FixtureRequest) -> Iterator[LabVm]:
    """One that is off, with two disks on different datastores, and more of a configuration than the simulator gives."""
    name = request.node.name[:40]
    made = center.create(name, [MIB, 64 * KIB], off=True, folder="prod")
    with service_of(center) as service:
        configure(service, made)
    yield made
    for each in [each for each in center.state()["machines"] if each.startswith((name, "restored"))]:
        destroy_named(center, each)


@pytest.fixture
def driver(center: VCenter) -> Iterator[VsphereDriver]:
    with connected(center) as made:
        yield made
    center.assert_clean()


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


def configure(service: Any, vm: LabVm) -> None:
    from pyVmomi import vim

    extra = [vim.option.OptionValue(key="guestinfo.role", value="database")]
    spec = vim.vm.ConfigSpec(
        numCPUs=2, memoryMB=768, annotation="of a test", extraConfig=extra, firmware="efi",
        cpuHotAddEnabled=True, bootOptions=vim.vm.BootOptions(bootDelay=3000),
    )  # fmt: skip
    run_task(machine_of(service, vm).ReconfigVM_Task(spec))


def info_of(driver: VsphereDriver, name: str) -> VmInfo:
    return driver.vm_info(next(vm for vm in driver.list_vms() if vm.name == name))


def restore(
    center: VCenter, driver: VsphereDriver, info: VmInfo, name: str, folder: Path, *, overwrite: bool = False
) -> VmRef:
    """As a session does it; what fails is abandoned, and has to leave nothing promised."""
    journal = MemoryJournal()
    target = driver.prepare_restore(name, info, overwrite, journal)
    try:
        written(center, target, folder)
        made = driver.finish_restore(target, info, journal)
    except HoldfastError:
        driver.abandon_restore(target, journal)
        assert not journal.open
        raise
    assert not journal.open
    return made


def written(center: VCenter, target: RestoreTarget, folder: Path) -> None:
    for disk in target.disks:
        write_url(center, disk.url, content(disk.disk_id, disk.size_bytes), folder, create=disk.create)


def content(disk_id: str, size: int) -> bytes:
    return (disk_id.encode() * (size // len(disk_id) + 1))[:size]


def facts(center: VCenter, driver: VsphereDriver, vm: VmRef) -> dict[str, Any]:
    """Of a VM as its server tells it; read by somebody else's session."""
    from pyVmomi import vim

    moid = driver._inventory.find(vm)._GetMoId()
    with service_of(center) as service:
        machine = vim.VirtualMachine(moid, service._stub)
        config = machine.config
        cards = [each for each in config.hardware.device if isinstance(each, vim.vm.device.VirtualEthernetCard)]
        return {
            "name": machine.name, "cpus": config.hardware.numCPU, "memory": config.hardware.memoryMB,
            "guest": config.guestId, "annotation": config.annotation, "firmware": config.firmware,
            "delay": config.bootOptions.bootDelay, "hot": config.cpuHotAddEnabled,
            "role": next((each.value for each in config.extraConfig if each.key == "guestinfo.role"), None),
            "networks": [each.backing.deviceName for each in cards], "macs": [each.macAddress for each in cards],
            "instance": config.instanceUuid, "bios": config.uuid, "folder": machine.parent.name,
            "pool": machine.resourcePool.name, "on": str(machine.runtime.powerState) == "poweredOn",
            "datastores": [each.name for each in machine.datastore],
        }  # fmt: skip


IDENTITY = ("name", "instance", "bios", "macs")


def test_a_vm_is_restored_beside_itself_as_another_one(
    center: VCenter, driver: VsphereDriver, vm: LabVm, tmp_path: Path
) -> None:
    info = info_of(driver, vm.name)
    before = facts(center, driver, info.ref)
    made = restore(center, driver, info, "restored", tmp_path)
    after = facts(center, driver, made)
    assert {key: after[key] for key in after if key not in IDENTITY} == {
        key: before[key] for key in before if key not in IDENTITY
    }
    assert after["name"] == "restored"
    assert (after["instance"], after["bios"]) != (before["instance"], before["bios"])
    again = driver.vm_info(made)
    assert [(disk.disk_id, disk.size_bytes) for disk in again.disks] == [
        (disk.disk_id, disk.size_bytes) for disk in info.disks
    ]
    for number, disk in enumerate(info.disks):
        assert center.content(named(center, "restored"), number) == content(disk.disk_id, disk.size_bytes)


@pytest.mark.parametrize("identity", list(Identity))
def test_a_vm_that_is_gone_comes_back_with_the_identity_that_is_wanted(
    center: VCenter, vm: LabVm, tmp_path: Path, identity: Identity
) -> None:
    with connected(center, restore_identity=identity) as driver:
        info = info_of(driver, vm.name)
        before = facts(center, driver, info.ref)
        destroy_named(center, vm.name)
        after = facts(center, driver, restore(center, driver, info, "restored", tmp_path))
    own = identity is not Identity.NEW
    assert (after["instance"] == before["instance"]) is own
    assert (after["bios"] == before["bios"]) is own
    assert after["folder"] == "prod", "it is where it was"


def test_a_vm_is_put_where_the_options_say_and_started(center: VCenter, vm: LabVm, tmp_path: Path) -> None:
    center.create("another", [KIB], folder="lab", off=True)
    there = {"restore_folder": "/DC0/vm/lab", "restore_datastore": "LocalDS_1", "restore_power_on": True}
    with connected(center, **there) as driver:
        after = facts(center, driver, restore(center, driver, info_of(driver, vm.name), "restored", tmp_path))
    assert (after["folder"], after["datastores"], after["on"]) == ("lab", ["LocalDS_1"], True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"restore_folder": "/DC0/vm/none"}, "no '/DC0/vm/none'"),
        ({"restore_pool": "/DC0/host/none"}, "no '/DC0/host/none'"),
        ({"restore_datastore": "none"}, "no datastore 'none'"),
        ({"restore_networks": {"VM Network": "none"}}, "no network 'none'"),
    ],
)
def test_places_that_are_not_there_are_told_before_anything_is_made(
    center: VCenter, vm: LabVm, journal: MemoryJournal, options: dict[str, Any], told: str
) -> None:
    before = datastore_files(center)
    with connected(center, **options) as driver, pytest.raises(UsageError, match=told):
        driver.prepare_restore("restored", info_of(driver, vm.name), False, journal)
    assert not journal.open
    assert datastore_files(center) == before


def test_networks_are_mapped_or_left_out(center: VCenter, vm: LabVm, tmp_path: Path) -> None:
    with connected(center, restore_networks={"VM Network": "DC0_DVPG0"}) as driver:
        made = restore(center, driver, info_of(driver, vm.name), "restored", tmp_path)
        backing = next(card.backing for card in cards_of(driver, made))
        assert backing.port.portgroupKey
        destroy_named(center, "restored")
    with connected(center, restore_networks={"VM Network": ""}) as driver:
        assert not cards_of(driver, restore(center, driver, info_of(driver, vm.name), "restored", tmp_path))


def cards_of(driver: VsphereDriver, vm: VmRef) -> list[Any]:
    from holdfast_plugins.hypervisors.vsphere.machine import look

    devices = look(driver.connection, driver._inventory.find(vm)).devices
    return [each for each in devices if isinstance(each, driver.connection.vim.vm.device.VirtualEthernetCard)]


def test_a_replaced_vm_hands_on_who_it_is(center: VCenter, driver: VsphereDriver, vm: LabVm, tmp_path: Path) -> None:
    info = info_of(driver, vm.name)
    before = facts(center, driver, info.ref)
    made = restore(center, driver, info, vm.name, tmp_path, overwrite=True)
    assert made.vm_id == info.ref.vm_id, "the points before and after are of one VM"
    after = facts(center, driver, made)
    assert {key: after[key] for key in (*IDENTITY, "folder", "role")} == {
        key: before[key] for key in (*IDENTITY, "folder", "role")
    }


def test_a_vm_that_runs_or_has_a_namesake_is_not_replaced(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    info = info_of(driver, vm.name)
    with pytest.raises(AlreadyExists):
        driver.prepare_restore(vm.name, info, False, journal)
    with service_of(center) as service:
        run_task(machine_of(service, vm).PowerOnVM_Task())
    with pytest.raises(DiskInUse, match="it runs"):
        driver.prepare_restore(vm.name, info, True, journal)
    assert not journal.open


@pytest.mark.parametrize("method", ["MakeDirectory", "CreateVirtualDisk_Task"])
def test_room_that_cannot_be_made_leaves_nothing(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, method: str
) -> None:
    info, before = info_of(driver, vm.name), datastore_files(center)
    with center.faults(Fault(method, "NoDiskSpace", call=True)), pytest.raises(HoldfastError, match="NoDiskSpace"):
        driver.prepare_restore("restored", info, False, journal)
    assert not journal.open
    assert datastore_files(center) == before


@pytest.mark.parametrize("method", ["CreateVM_Task", "Rename_Task"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_machine_that_cannot_be_made_leaves_the_old_one_as_it_was(
    center: VCenter, driver: VsphereDriver, vm: LabVm, tmp_path: Path, method: str, overwrite: bool
) -> None:
    if method == "Rename_Task" and not overwrite:
        pytest.skip("nothing is renamed")
    info, before = info_of(driver, vm.name), datastore_files(center)
    name = vm.name if overwrite else "restored"
    with center.faults(Fault(method, "InvalidState", call=True)), pytest.raises(HoldfastError, match="InvalidState"):
        restore(center, driver, info, name, tmp_path, overwrite=overwrite)
    assert datastore_files(center) == before
    assert info_of(driver, vm.name) == info


def test_an_old_one_that_cannot_be_destroyed_now_goes_later(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, tmp_path: Path
) -> None:
    info = info_of(driver, vm.name)
    target = driver.prepare_restore(vm.name, info, True, journal)
    written(center, target, tmp_path)
    with center.faults(Fault("Destroy_Task", "TaskInProgress")):
        made = driver.finish_restore(target, info, journal)
    assert made.name == vm.name
    assert [each.kind for each in journal.open.values()] == ["vsphere-replaced"]
    assert len([each for each in driver.list_vms() if each.name.startswith(vm.name)]) == 2
    for _ in range(2):
        with connected(center) as other:
            for obligation in journal.open.values():
                other.fulfil(obligation.kind, obligation.data)
    assert [each for each in driver.list_vms() if each.name.startswith(vm.name)] == [info.ref]


def test_disks_of_another_kind_of_hypervisor_get_a_plain_machine(
    center: VCenter, driver: VsphereDriver, tmp_path: Path
) -> None:
    disks = tuple(DiskInfo(name, name, size) for name, size in (("vda", MIB), ("vdb", 2 * KIB)))
    made = restore(center, driver, VmInfo(VmRef("x", "web"), disks, config=b"<domain/>"), "restored", tmp_path)
    info = driver.vm_info(made)
    assert [(disk.disk_id, disk.size_bytes) for disk in info.disks] == [("scsi0:0", MIB), ("scsi0:1", 2 * KIB)]
    assert facts(center, driver, made)["guest"] == "otherGuest64"
    destroy_named(center, "restored")


def test_a_disk_of_another_size_than_vsphere_has_is_refused(driver: VsphereDriver, journal: MemoryJournal) -> None:
    info = VmInfo(VmRef("x", "web"), (DiskInfo("vda", "vda", 512),))
    with pytest.raises(DiskUnsupported, match="whole KiB"):
        driver.prepare_restore("restored", info, False, journal)
    assert not journal.open


@pytest.mark.parametrize("name", ["", " ", "a/b", "a%2f", "a\nb", "x" * 81])
def test_names_that_a_vcenter_would_write_otherwise_are_refused(
    driver: VsphereDriver, journal: MemoryJournal, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        driver.prepare_restore(name, VmInfo(VmRef("x", "web"), (DiskInfo("vda", "vda", MIB),)), False, journal)


def test_a_point_of_vsphere_goes_to_another_hypervisor(
    driver: VsphereDriver, vm: LabVm, journal: MemoryJournal, tmp_path: Path
) -> None:
    images = ImagesDriver(ImagesOptions(path=str(tmp_path)), {})
    images.connect()
    info = info_of(driver, vm.name)
    target = images.prepare_restore("web", info, False, journal)
    for disk in target.disks:
        Path(disk.url.removeprefix("file:")).write_bytes(content(disk.disk_id, disk.size_bytes))
    made = images.finish_restore(target, info, journal)
    assert sorted(disk.size_bytes for disk in images.vm_info(made).disks) == sorted(
        disk.size_bytes for disk in info.disks
    )


def test_what_the_journal_has_of_others_is_never_deleted(
    center: VCenter, driver: VsphereDriver, vm: LabVm, journal: MemoryJournal
) -> None:
    driver.abandon_restore(driver.prepare_restore("restored", info_of(driver, vm.name), False, journal), journal)
    before = datastore_files(center)
    token = "0" * 16
    for folders in (
        ["[LocalDS_0] prod"],
        [f"[LocalDS_0] ../x-{token}"],
        [f"[LocalDS_0] x-{token}", "[LocalDS_0] y"],
        [],
    ):
        data = {"token": token, "center": "datacenter-2", "folders": msgspec.json.encode(folders).decode()}
        with pytest.raises(HoldfastError, match="not of this plugin"):
            driver.fulfil("vsphere-restore", data)
    aside = {"moid": vm.vm_id, "instance": "", "name": "x", "aside": vm.name, "vmx": ""}
    with pytest.raises(HoldfastError, match="not of this plugin"):
        driver.fulfil("vsphere-replaced", aside)
    driver.fulfil("vsphere-replaced", aside | {"aside": f"x.replaced-{token}"})
    assert datastore_files(center) == before
    assert vm.name in center.state()["machines"]
