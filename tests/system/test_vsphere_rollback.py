"""Quick rollback on vSphere: what differs is written over the disks of a VM that is off, and nothing stays behind."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.contents import assert_same
from lab.processes import MOVER, children
from lab.proxy_devices import guest_of
from lab.vcenter import LabVm, VCenter, vcenter
from lab.vsphere_backups import machine_of, run_task, service_of
from lab.vsphere_house import VsphereHouse, vsphere_house

MIB = 1 << 20
SIZE = 12 * MIB
IN_PLACE = ("--point", "latest", "--server", "vc", "--in-place")
POLL_S = 0.02


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        made.create("proxy-vm", [MIB])
        yield made


@pytest.fixture(scope="module")
def house(center: VCenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsphereHouse]:
    """Its proxy has one datastore mounted, and is a VM that can have the disks of all others."""
    store = center.datastore("LocalDS_0")
    proxies = f'proxies={{ local = {{ vm = "proxy-vm", mounts = {{ LocalDS_0 = "{store}" }} }} }}'
    with vsphere_house(tmp_path_factory.mktemp("house"), center, proxies, paths=("/dev", str(store))) as made:
        made.holdfast("server", "edit", "vc", "--option", 'transports=["san", "hotadd", "https"]')
        yield made


def a_vm_with_a_point(center: VCenter, house: VsphereHouse, datastore: int = 0) -> tuple[LabVm, list[bytes]]:
    """It has been written to since, and is off."""
    vm = center.create(f"rolled-{secrets.token_hex(4)}", [SIZE, MIB], datastore=datastore)
    for disk, length in ((0, SIZE // 2), (1, MIB)):
        center.write(vm, disk, [(0, os.urandom(length))])
    house.add_vsphere_job(vm.name, vm.name)
    house.run_job(vm.name)
    contents = [center.content(vm, disk) for disk in range(2)]
    center.write(vm, 0, [(MIB + 5, b"changed"), (3 * MIB, bytes(MIB)), (9 * MIB, b"new")])
    power(center, vm, on=False)
    return vm, contents


def power(center: VCenter, vm: LabVm, *, on: bool) -> None:
    with service_of(center) as service:
        machine = machine_of(service, vm)
        run_task(machine.PowerOnVM_Task() if on else machine.PowerOffVM_Task())


def tracked(center: VCenter, vm: LabVm) -> bool:
    with service_of(center) as service:
        return bool(machine_of(service, vm).config.changeTrackingEnabled)


def told(house: VsphereHouse, report: dict[str, Any]) -> list[tuple[str, int, int]]:
    """By disk how it was compared, and MiB that were read and that were written."""
    return [
        (disk["mode"], disk["counters"]["read_bytes"] // MIB,
         (disk["counters"]["sent_bytes"] + disk["counters"]["zero_bytes"]) // MIB)
        for disk in report["disks"]
    ]  # fmt: skip


def test_what_changed_is_written_back_by_a_mounted_datastore(center: VCenter, house: VsphereHouse) -> None:
    """First by what was tracked since the point; then, as tracking began anew, by comparing it all."""
    vm, contents = a_vm_with_a_point(center, house)
    report = house.holdfast("restore", "vm", "--vm", vm.name, *IN_PLACE)
    assert [(mode, written) for mode, _read, written in told(house, report)] == [("cbt", 3), ("cbt", 0)]
    for disk in range(2):
        assert_same(center.content(vm, disk), contents[disk])
    assert tracked(center, vm)
    center.assert_clean()
    center.write(vm, 0, [(5 * MIB, b"once more")])
    report = house.holdfast("restore", "vm", "--vm", vm.name, *IN_PLACE)
    assert [(mode, written) for mode, _read, written in told(house, report)] == [("digest", 1), ("digest", 0)]
    assert_same(center.content(vm, 0), contents[0])
    power(center, vm, on=True)
    report = house.run_job(vm.name)
    assert [disk["mode"] for disk in report["disks"]] == ["digest", "digest"], "nobody tracked what proxies wrote"
    assert "tracking began anew" in report["disks"][0]["reason"]
    assert_same(house.restored(vm.name, report["points"][0]["sid"], "scsi0:0"), contents[0])
    center.write(vm, 0, [(0, b"tracked again")])
    assert [disk["mode"] for disk in house.run_job(vm.name)["disks"]] == ["cbt", "cbt"]
    center.assert_clean()


def guest(center: VCenter, folder: Path) -> Any:
    """The proxy's guest, which has the very files of what is attached to it."""

    def file_of(name: str) -> Path:
        store, _, path = name[1:].partition("] ")
        return center.datastore(store) / path.replace(".vmdk", "-flat.vmdk")

    return guest_of(center, "proxy-vm", file_of, folder)


def test_disks_are_attached_to_be_written_and_detached_whatever_kills_the_session(
    center: VCenter, house: VsphereHouse, tmp_path: Path
) -> None:
    own = center.state()["machines"]["proxy-vm"]["disks"]
    with guest(center, tmp_path):
        vm, contents = a_vm_with_a_point(center, house, datastore=1)
        center.write(vm, 0, [(0, os.urandom(SIZE))])
        house.holdfast("repository", "edit", "main", "--read-limit", "3 MiB")
        begun = house.holdfast("restore", "vm", "--vm", vm.name, *IN_PLACE, "--detach")["session"]
        while not any(disk["counters"]["sent_bytes"] for disk in shown(house, begun)["disks"]):
            time.sleep(POLL_S)
        assert len(center.state()["machines"]["proxy-vm"]["disks"]) == 3
        house.kill_session(begun)
        house.holdfast("repository", "edit", "main", "--reset", "read-limit")
        center.expire_sessions()
        while house.agent is not None and children(house.agent.pid, MOVER):  # until the lease of the session lapses
            time.sleep(POLL_S)
        assert not tracked(center, vm)
        cleaned = house.holdfast("server", "clean", "vc")
        assert not cleaned["failed"]
        assert center.state()["machines"]["proxy-vm"]["disks"] == own
        assert tracked(center, vm)
        report = house.holdfast("restore", "vm", "--vm", vm.name, *IN_PLACE)
        assert [mode for mode, _read, _written in told(house, report)] == ["digest", "digest"]
    for disk in range(2):
        assert_same(center.content(vm, disk), contents[disk])
    assert center.state()["machines"]["proxy-vm"]["disks"] == own
    assert tracked(center, vm)
    center.assert_clean()


def shown(house: VsphereHouse, number: int) -> dict[str, Any]:
    session: dict[str, Any] = house.holdfast("session", "show", str(number))
    assert session["state"] != "ended", session
    return session


def test_what_cannot_be_rolled_back_is_left_as_it_is(center: VCenter, house: VsphereHouse, tmp_path: Path) -> None:
    vm, _contents = a_vm_with_a_point(center, house)
    restore = ("restore", "vm", "--vm", vm.name, *IN_PLACE)
    before = [center.content(vm, disk) for disk in range(2)]
    with ExitStack() as undone:
        power(center, vm, on=True)
        undone.callback(power, center, vm, on=False)
        assert "it runs now" in json.dumps(house.holdfast(*restore, expect=11))
    with service_of(center) as service:
        run_task(machine_of(service, vm).CreateSnapshot_Task("theirs", "", False, False))
    assert "has snapshots" in json.dumps(house.holdfast(*restore, expect=11))
    with service_of(center) as service:
        run_task(machine_of(service, vm).RemoveAllSnapshots_Task())
    house.holdfast("server", "edit", "vc", "--option", 'transports=["https"]')
    refused = json.dumps(house.holdfast(*restore, expect=2))
    assert "no proxy can write" in refused and "--overwrite" in refused, refused
    house.holdfast("server", "edit", "vc", "--option", 'transports=["san", "hotadd", "https"]')
    assert tracked(center, vm)
    for disk in range(2):
        assert_same(center.content(vm, disk), before[disk])
    center.assert_clean()
