"""kill -9 of a process in the middle of each of its acts on a vCenter: the next one clears up, and nothing is lost."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast_plugins.api import SnapshotRequest
from holdfast_plugins.hypervisors.vsphere import ProxyOptions
from holdfast_plugins.testkit import MemoryJournal
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import (
    connected,
    datastore_files,
    destroy_named,
    machine_of,
    options_of,
    secret_of,
    service_of,
)

MIB = 1 << 20
HELD_MS = 700
"""For which an act is held so that the process can be killed in it; the server goes on with it afterwards."""
POLL_S = 0.005
CHILD = """
import json, sys
import msgspec
from holdfast_plugins.api import SnapshotRequest
from holdfast_plugins.hypervisors.vsphere import VsphereDriver, VsphereOptions

class Journal:
    count = 0
    def promise(self, kind, data):
        self.count += 1
        print(json.dumps({"number": self.count, "kind": kind, "data": data}), flush=True)
        return self.count
    def strike(self, number):
        print(json.dumps({"struck": number}), flush=True)

told = json.loads(sys.stdin.readline())
driver, journal = VsphereDriver(msgspec.convert(told["options"], VsphereOptions), told["secret"]), Journal()
driver.connect()
vm = next(each for each in driver.list_vms() if each.name == told["vm"])
info = driver.vm_info(vm)
disks = tuple(disk.disk_id for disk in info.disks)
print("ready", flush=True)
snapshot = driver.create_snapshot(SnapshotRequest(vm, "test", disks, series="one"), journal)
{then}
print("done", flush=True)
"""
REPLACE = """
driver.remove_snapshot(snapshot, True, journal)
target = driver.prepare_restore(vm.name, info, True, journal)
driver.finish_restore(target, info, journal)
"""
HOT_ADD = """
for disk in snapshot.disks:
    driver.disk_for(snapshot, disk, "near", journal)
driver.remove_snapshot(snapshot, True, journal)
"""
ROLL_BACK = """
driver.remove_snapshot(snapshot, True, journal)
target = driver.prepare_rollback(vm.name, info, {}, journal)
for disk in target.disks:
    driver.place_for(target, disk, "near", journal)
driver.finish_restore(target, info, journal)
"""
HELD = (
    Fault("ReconfigVM_Task", delay_ms=HELD_MS),
    Fault("CreateSnapshotEx_Task", delay_ms=HELD_MS),
    Fault("RemoveSnapshot_Task", delay_ms=HELD_MS),
    Fault("MakeDirectory", delay_ms=HELD_MS, call=True),
    Fault("CreateVirtualDisk_Task", delay_ms=HELD_MS, call=True),
    Fault("Rename_Task", delay_ms=HELD_MS, call=True),
    Fault("CreateVM_Task", delay_ms=HELD_MS, call=True),
    Fault("Destroy_Task", delay_ms=HELD_MS),
)


ATTACHED = (
    pytest.param(HOT_ADD, Fault("ReconfigVM_Task", vm="proxy", delay_ms=HELD_MS), id="attach"),
    pytest.param(HOT_ADD, Fault("ReconfigVM_Task", vm="proxy", delay_ms=HELD_MS, skip=1), id="attach another"),
    pytest.param(HOT_ADD, Fault("ReconfigVM_Task", vm="proxy", delay_ms=HELD_MS, skip=2), id="detach"),
    pytest.param(HOT_ADD, Fault("RemoveSnapshot_Task", delay_ms=HELD_MS), id="remove when detached"),
    pytest.param(ROLL_BACK, Fault("ReconfigVM_Task", delay_ms=HELD_MS, skip=1), id="end tracking"),
    pytest.param(ROLL_BACK, Fault("ReconfigVM_Task", vm="proxy", delay_ms=HELD_MS), id="attach to write"),
    pytest.param(ROLL_BACK, Fault("ReconfigVM_Task", vm="proxy", delay_ms=HELD_MS, skip=3), id="detach the last"),
    pytest.param(ROLL_BACK, Fault("ReconfigVM_Task", delay_ms=HELD_MS, skip=2), id="track again"),
)


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        made.create("proxy", [MIB])
        yield made


@pytest.mark.parametrize("fault", HELD, ids=lambda fault: fault.method)
def test_whatever_a_process_was_doing_the_next_one_clears_up(center: VCenter, fault: Fault, tmp_path: Path) -> None:
    vm = center.create(fault.method, [MIB, MIB], off=True)
    before = datastore_files(center)
    with center.faults(fault):
        opened = run_and_kill(center, vm, REPLACE)
    center.expire_sessions()  # a vCenter does so by itself, half an hour later
    with connected(center) as driver:
        for _ in range(2):
            for obligation in reversed(opened):
                driver.fulfil(obligation["kind"], obligation["data"])
        while center.state()["tasks"]:  # what the server does by itself; the test's own time-out ends it
            time.sleep(POLL_S)
        center.assert_clean(sessions=1)
        names = [each.name for each in driver.list_vms() if each.name.startswith(vm.name)]
        assert names == [vm.name], "there is one VM of the name, the old one or the new"
        stands = center.state()["machines"][vm.name]["disks"][0] != f"[LocalDS_0] {vm.name}/{vm.name}.vmdk"
        left = {path for path in datastore_files(center) - before if f"/{vm.name}" in path}
        assert bool(left) is stands, f"of a restore that was not finished there is {left}"
        journal = MemoryJournal()
        ref = next(each for each in driver.list_vms() if each.name == vm.name)
        snapshot = driver.create_snapshot(SnapshotRequest(ref, "test", ("scsi0:0", "scsi0:1")), journal)
        driver.remove_snapshot(snapshot, True, journal)
        assert not journal.open
    center.assert_clean()


@pytest.mark.parametrize(("then", "fault"), ATTACHED)
def test_what_a_process_had_attached_is_detached_and_tracking_goes_on(center: VCenter, then: str, fault: Fault) -> None:
    vm = center.create(f"victim-{secrets.token_hex(4)}", [MIB, MIB], off=True)
    if not fault.vm:
        fault = replace(fault, vm=vm.name)
    own = center.state()["machines"]["proxy"]["disks"]
    with center.faults(fault):
        opened = run_and_kill(center, vm, then)
    center.expire_sessions()
    with connected(center) as driver:
        for _ in range(2):
            for obligation in reversed(opened):
                driver.fulfil(obligation["kind"], obligation["data"])
        while center.state()["tasks"]:
            time.sleep(POLL_S)
        assert center.state()["machines"]["proxy"]["disks"] == own
        center.assert_clean(sessions=1)
    with service_of(center) as service:
        assert machine_of(service, vm).config.changeTrackingEnabled
    destroy_named(center, vm.name)


def run_and_kill(center: VCenter, vm: LabVm, then: str) -> list[dict[str, Any]]:
    """Run the child until it is held in its act, and kill it; returns the promises it had not struck off, in order."""
    options = options_of(center, proxies={"near": ProxyOptions(vm="proxy")})
    told = {"options": msgspec.to_builtins(options), "secret": secret_of(center), "vm": vm.name}
    command = [sys.executable, "-c", CHILD.replace("{then}", then)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(told) + "\n")
        child.stdin.close()
        assert child.stdout.readline().strip() == "ready"
        while not center._ask("GET", "/faults")[0]["Hits"]:
            assert child.poll() is None, "it was done before it was held"
            time.sleep(POLL_S)
        child.kill()
        lines = [json.loads(line) if line[0] == "{" else line.strip() for line in child.stdout]
    assert "done" not in lines
    struck = {line["struck"] for line in lines if "struck" in line}
    return [line for line in lines if "number" in line and line["number"] not in struck]
