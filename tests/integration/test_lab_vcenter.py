"""The vSphere simulator with real disks: what its tests of Holdfast rest on is itself as VMware documents it."""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from typing import Any

import pytest

from lab.vcenter import GRAIN_BYTES, MOST_EXTENTS, Fault, LabVm, VCenter, vcenter

pytestmark = pytest.mark.timeout(300)  # the first builds the simulator

MIB = 1 << 20


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as running:
        yield running


@pytest.fixture
def service(center: VCenter) -> Iterator[Any]:
    from pyVim.connect import Disconnect

    connected = center.connect()
    yield connected
    Disconnect(connected)
    center.assert_clean()


def test_that_a_snapshot_freezes_bytes_and_its_removal_merges_them(center: VCenter, service: Any) -> None:
    """Over a random history: what a snapshot froze stays, the guest sees what it wrote, before and after merges."""
    story = random.Random(7)
    vm = center.create("frozen", [4 * MIB, 1 * MIB])
    frozen: dict[str, list[bytes]] = {}
    now = [bytearray(4 * MIB), bytearray(1 * MIB)]
    for _ in range(12):
        for disk, whole in enumerate(now):
            writes = [_random_write(story, len(whole)) for _ in range(story.randrange(8))]
            center.write(vm, disk, writes)
            for at, data in writes:
                whole[at : at + len(data)] = data
        if len(frozen) < 3 and story.random() < 0.6:
            frozen[_snapshot(service, vm)] = [bytes(whole) for whole in now]
        elif frozen:
            gone = story.choice(sorted(frozen))
            del frozen[gone]
            _run(_ref(service, "VirtualMachineSnapshot", gone).RemoveSnapshot_Task(False))
        for disk, whole in enumerate(now):
            assert center.content(vm, disk) == whole
            for snapshot, disks in frozen.items():
                assert center.content(vm, disk, snapshot) == disks[disk]
    _run(_vm(service, vm).RemoveAllSnapshots_Task())
    assert [center.content(vm, disk) for disk in range(2)] == now
    assert center.state()["machines"]["frozen"]["disks"] == [
        "[LocalDS_0] frozen/frozen.vmdk",
        "[LocalDS_0] frozen/frozen_1.vmdk",
    ]


def test_that_the_folder_gives_the_frozen_bytes_to_whoever_is_logged_in(center: VCenter, service: Any) -> None:
    vm = center.create("served", [2 * MIB])
    center.write(vm, 0, [(MIB - 5, b"before the snapshot")])
    assert _get(center, service, "served/served-flat.vmdk")[0] == 500  # the running VM writes it
    snapshot = _snapshot(service, vm)
    center.write(vm, 0, [(MIB, b"after")])
    assert _get(center, service, "served/served-flat.vmdk") == (200, center.content(vm, 0, snapshot))
    assert _get(center, None, "served/served-flat.vmdk")[0] == 401
    with center.faults(Fault("GET /folder", status=503)):
        assert _get(center, service, "served/served-flat.vmdk")[0] == 503
    _run(_vm(service, vm).RemoveAllSnapshots_Task())


def test_that_changed_areas_are_those_written_between_two_snapshots(center: VCenter, service: Any) -> None:
    from pyVmomi import vim

    size = 300 * MIB + GRAIN_BYTES // 2  # so that the last extent reaches past the end
    vm = center.create("tracked", [size])
    _run(_vm(service, vm).ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    first = _snapshot(service, vm)
    since = _change_id(service, first)
    _run(_ref(service, "VirtualMachineSnapshot", first).RemoveSnapshot_Task(False))
    grains = sorted({2 * at for at in range(MOST_EXTENTS + 100)} | {size // GRAIN_BYTES})
    center.write(vm, 0, [(at * GRAIN_BYTES, b"x") for at in grains])
    second = _snapshot(service, vm)
    center.write(vm, 0, [(GRAIN_BYTES, b"later")])

    def ask(offset: int, change_id: str) -> Any:
        snapshot = _ref(service, "VirtualMachineSnapshot", second)
        return _vm(service, vm).QueryChangedDiskAreas(snapshot, vm.disks[0], offset, change_id)

    page = ask(0, since)
    assert len(page.changedArea) == MOST_EXTENTS
    rest = ask(page.startOffset + page.length, since)
    told = [area.start // GRAIN_BYTES for area in [*page.changedArea, *rest.changedArea]]
    assert told == grains
    assert rest.changedArea[-1].start + rest.changedArea[-1].length > size
    assert [area.start // GRAIN_BYTES for area in ask(0, "*").changedArea] == told[:MOST_EXTENTS]
    with pytest.raises(vim.fault.FileFault):
        ask(0, since.replace("/1", "/99"))
    with pytest.raises(Exception, match="startOffset"):
        ask(size, since)
    center.crash(vm)
    with pytest.raises(vim.fault.FileFault):
        ask(0, since)
    _run(_vm(service, vm).RemoveAllSnapshots_Task())


def test_that_faults_happen_on_command_and_leave_what_they_should(center: VCenter, service: Any) -> None:
    from pyVmomi import vim

    vm = center.create("faulty", [MIB])
    with (
        center.faults(Fault("CreateSnapshot_Task", "ApplicationQuiesceFault", quiesce=True)),
        pytest.raises(vim.fault.ApplicationQuiesceFault),
    ):
        _snapshot(service, vm, quiesce=True)
    assert center.state()["machines"]["faulty"]["snapshots"] == 0
    with center.faults(Fault("RemoveSnapshot_Task", "ConsolidationNeeded")):
        snapshot = _snapshot(service, vm)
        center.write(vm, 0, [(0, b"kept")])
        _run(_ref(service, "VirtualMachineSnapshot", snapshot).RemoveSnapshot_Task(False))
    state = center.state()["machines"]["faulty"]
    assert (state["snapshots"], state["consolidation_needed"]) == (0, True)
    with center.faults(Fault("ConsolidateVMDisks_Task", "FileLocked")), pytest.raises(vim.fault.FileLocked):
        _run(_vm(service, vm).ConsolidateVMDisks_Task())
    _run(_vm(service, vm).ConsolidateVMDisks_Task())
    assert center.content(vm, 0).startswith(b"kept")
    assert _vm(service, vm).runtime.consolidationNeeded is False


def test_that_a_disk_attached_elsewhere_cannot_be_merged(center: VCenter, service: Any) -> None:
    """As a proxy that still has the snapshot's disk: the snapshot goes, its delta stays until the disk is detached."""
    from pyVmomi import vim

    vm, proxy = center.create("held", [MIB]), center.create("proxy", [MIB])
    snapshot = _snapshot(service, vm)
    frozen = next(
        device
        for device in _ref(service, "VirtualMachineSnapshot", snapshot).config.hardware.device
        if isinstance(device, vim.vm.device.VirtualDisk)
    )
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName=frozen.backing.fileName, diskMode="independent_nonpersistent"
    )
    disk = vim.vm.device.VirtualDisk(
        key=-1, controllerKey=frozen.controllerKey, unitNumber=5, backing=backing, capacityInKB=frozen.capacityInKB
    )
    add = vim.vm.device.VirtualDeviceSpec(operation="add", device=disk)
    _run(_vm(service, proxy).ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[add])))
    attached = _vm(service, proxy).config.hardware.device[-1]
    assert attached.backing.uuid == frozen.backing.uuid
    with pytest.raises(vim.fault.FileLocked):
        _run(_ref(service, "VirtualMachineSnapshot", snapshot).RemoveSnapshot_Task(False))
    assert center.state()["machines"]["held"]["consolidation_needed"]
    remove = vim.vm.device.VirtualDeviceSpec(operation="remove", device=attached)
    _run(_vm(service, proxy).ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[remove])))
    _run(_vm(service, vm).ConsolidateVMDisks_Task())


def test_that_a_session_that_ended_is_not_authenticated(center: VCenter, service: Any) -> None:
    from pyVmomi import vim

    vm = center.create("expired", [MIB])
    assert center.expire_sessions() == 1
    with pytest.raises(vim.fault.NotAuthenticated):
        _snapshot(service, vm)
    content = service.RetrieveContent()
    content.sessionManager.Login(center.user, center.password)


def test_that_an_esxi_host_works_too() -> None:
    from pyVim.connect import Disconnect

    with vcenter(esx=True) as host:
        service = host.connect()
        vm = host.create("alone", [MIB])
        host.write(vm, 0, [(0, b"there")])
        snapshot = _snapshot(service, vm)
        assert host.content(vm, 0, snapshot).startswith(b"there")
        assert _get(host, service, "alone/alone-flat.vmdk", "ha-datacenter")[1] == host.content(vm, 0)
        _run(_ref(service, "VirtualMachineSnapshot", snapshot).RemoveSnapshot_Task(False))
        Disconnect(service)
        host.assert_clean()


def _random_write(story: random.Random, size: int) -> tuple[int, bytes]:
    length = story.choice([1, 511, GRAIN_BYTES, 3 * GRAIN_BYTES + 7])
    at = story.randrange(size - length)
    return at, story.randbytes(length)


def _ref(service: Any, kind: str, vm_id: str) -> Any:
    from pyVmomi import vim

    types = {"VirtualMachine": vim.VirtualMachine, "VirtualMachineSnapshot": vim.vm.Snapshot}
    return types[kind](vm_id, service._stub)


def _vm(service: Any, vm: LabVm) -> Any:
    return _ref(service, "VirtualMachine", vm.vm_id)


def _run(task: Any) -> Any:
    from pyVim.task import WaitForTask

    WaitForTask(task)
    return task.info.result


def _snapshot(service: Any, vm: LabVm, quiesce: bool = False) -> str:
    made = _run(_vm(service, vm).CreateSnapshot_Task("test", "", False, quiesce))
    return str(made._moId)


def _change_id(service: Any, snapshot: str) -> str:
    from pyVmomi import vim

    devices = _ref(service, "VirtualMachineSnapshot", snapshot).config.hardware.device
    return next(str(device.backing.changeId) for device in devices if isinstance(device, vim.vm.device.VirtualDisk))


def _get(center: VCenter, service: Any, path: str, datacenter: str = "DC0") -> tuple[int, bytes]:
    """Status and body."""
    context = ssl.create_default_context(cafile=str(center.certificates.ca))
    context.check_hostname = False
    headers = {"Cookie": service._stub.cookie.partition(";")[0]} if service is not None else {}
    with contextlib.closing(HTTPSConnection(center.host, center.port, context=context)) as connection:
        connection.request("GET", f"/folder/{path}?dcPath={datacenter}&dsName=LocalDS_0", headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
