"""Jobs over vSphere, as users run them: every point is bit for bit what its VM had, and nothing stays on the server."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from lab.processes import children, program
from lab.proxy_devices import guest_of
from lab.vcenter import Fault, LabVm, VCenter, vcenter
from lab.vsphere_backups import destroy_named, instance_uuid, named
from lab.vsphere_house import VsphereHouse, vsphere_house

MIB = 1 << 20
POLL_S = 0.01


@pytest.fixture(scope="module")
def center() -> Iterator[VCenter]:
    with vcenter() as made:
        yield made


@pytest.fixture(scope="module")
def house(center: VCenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsphereHouse]:
    with vsphere_house(tmp_path_factory.mktemp("house"), center) as made:
        yield made


def test_full_incremental_and_restored_disks_are_bit_for_bit(center: VCenter, house: VsphereHouse) -> None:
    chance, sizes = random.Random(4), (9 * MIB, 2 * MIB)
    vm = center.create("web", sizes, folder="prod")
    house.add_vsphere_job("nightly", "folder:/DC0/vm/prod")
    held: dict[str, list[bytes]] = {}
    modes: list[set[tuple[str, str]]] = []
    for round_ in range(4):
        for disk, size in enumerate(sizes):
            writes = [(chance.randrange(size - 70_000), chance.randbytes(chance.choice((1, 70_000)))) for _ in range(9)]
            center.write(vm, disk, writes)
        if round_ == 3:
            center.crash(vm)
        report = house.run_job("nightly")
        modes.append({(disk["mode"], disk["reason"].partition(";")[0]) for disk in report["disks"]})
        held[report["points"][0]["sid"]] = [center.content(vm, disk) for disk in range(len(sizes))]
        center.assert_clean()
    assert {mode for told in modes[:1] for mode, _ in told} == {"allocation"}
    assert {mode for told in modes[1:3] for mode, _ in told} == {"cbt"}
    assert {mode for mode, _ in modes[3]} == {"digest"}
    assert all("tracking began anew" in reason for _, reason in modes[3])
    for number, (sid, contents) in enumerate(held.items()):
        disk = number % len(sizes)
        assert house.restored("web", sid, f"scsi0:{disk}") == contents[disk], f"point {sid} restored another disk"
    check_restored_vm(center, house, vm, list(held.values())[-1])


def check_restored_vm(center: VCenter, house: VsphereHouse, vm: LabVm, contents: list[bytes]) -> None:
    """As another VM beside it, and then in the place of one that is lost."""
    house.holdfast("restore", "vm", "--vm", "web", "--point", "latest", "--server", "vc", "--name", "web-new")
    listed = {each["name"]: each["vm_id"] for each in house.holdfast("server", "show", "vc")["vms"]}
    assert listed["web-new"] != listed["web"] == instance_uuid(center, vm)
    restored = named(center, "web-new")
    for disk, content in enumerate(contents):
        assert center.content(restored, disk) == content
    destroy_named(center, "web-new")
    destroy_named(center, "web")
    house.holdfast("restore", "vm", "--vm", "web", "--point", "latest", "--server", "vc", "--name", "web")
    del listed["web-new"]
    assert {each["name"]: each["vm_id"] for each in house.holdfast("server", "show", "vc")["vms"]} == listed
    center.assert_clean()
    destroy_named(center, "web")


@pytest.mark.parametrize(
    "count", [16, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])], ids="{} VMs".format
)
def test_many_vms_by_one_job_keep_within_the_limits(tmp_path: Path, count: int) -> None:
    """Of each host, each datastore, the proxy and the repository, at every moment."""
    limits = {"host": 3, "datastore": 2, "proxy": 5, "repository": 5}
    with vcenter() as center, vsphere_house(tmp_path / "house", center, slots=limits["proxy"]) as house:
        per = ("--max-tasks-per-host", str(limits["host"]), "--max-tasks-per-datastore", str(limits["datastore"]))
        house.holdfast("server", "edit", "vc", *per, "--snapshot-spacing", "0.05")
        vms = [
            center.create(f"many{number}", [MIB], host=number % 2, datastore=number // 2 % 2) for number in range(count)
        ]
        for number, vm in enumerate(vms):
            center.write(vm, 0, [(number * 1000, f"content of {vm.name}".encode())])
        house.add_vsphere_job("many", "many*")
        report = house.run_job("many")
        assert len(report["points"]) == count
        most = most_at_once(house, report["id"])
        assert all(most[kind] <= limit for kind, limit in limits.items()), most
        assert most["datastore"] == limits["datastore"], "they do work side by side"
        (snapshots,) = (step for step in report["steps"] if step["step"] == "snapshot")
        assert snapshots["took_s"] >= 0.05 * (count // 2 - 1), "snapshots of a datastore begin apart"
        for point in report["points"][:: count // 3]:
            vm = next(each for each in vms if each.name == point["vm"])
            assert house.restored(vm.name, point["sid"], "scsi0:0") == center.content(vm, 0)
        center.assert_clean()


def most_at_once(house: VsphereHouse, session: int) -> Counter[str]:
    """How many tasks of a session held a slot of one host, datastore, proxy and repository at once, at the most."""
    numbers = {
        vm["vm_id"]: int(vm["name"].removeprefix("many")) for vm in house.holdfast("server", "show", "vc")["vms"]
    }
    query = "SELECT kind, data FROM events WHERE session = ? ORDER BY id"
    with closing(sqlite3.connect(house.home / "manager" / "catalog.db")) as catalog:
        events = [(kind, json.loads(data)) for kind, data in catalog.execute(query, (session,))]
    now, most = Counter[tuple[str, object]](), Counter[str]()
    for kind, data in events:
        step = {"SlotGranted": 1, "TransferFinished": -1, "TaskFailed": -1}.get(kind, 0)
        if not step:
            continue
        number = numbers[data["task"]["vm"]]
        for place in (("host", number % 2), ("datastore", number // 2 % 2), ("proxy", ""), ("repository", "")):
            now[place] += step
            most[place[0]] = max(most[place[0]], now[place])
    assert not +now
    return most


@pytest.mark.parametrize(
    "fault",
    [
        Fault("CreateSnapshotEx_Task", delay_ms=1500),
        Fault("GET /folder", delay_ms=1500),
        Fault("RemoveSnapshot_Task", delay_ms=1500),
    ],
    ids=lambda fault: fault.method,
)
def test_a_killed_session_is_cleaned_up_by_the_next(center: VCenter, house: VsphereHouse, fault: Fault) -> None:
    name = fault.method.replace(" /", "-")
    vm = center.create(name, [MIB])
    center.write(vm, 0, [(0, name.encode())])
    job = f"job-{len(center.state()['machines'])}"
    house.add_vsphere_job(job, name)
    with (
        center.faults(fault),
        program(
            house.command("job", "run", job), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=house.environment,
        ) as run,
    ):  # fmt: skip
        while not center._ask("GET", "/faults")[0]["Hits"]:
            assert run.poll() is None, "it was over before it was held"
            time.sleep(POLL_S)
        for pid in children(run.pid):
            os.kill(pid, signal.SIGKILL)
        assert run.wait(60) != 0
    center.expire_sessions()
    cleaned: Any = house.holdfast("server", "clean", "vc")
    assert not cleaned["failed"]
    while center.state()["tasks"]:
        time.sleep(POLL_S)
    center.assert_clean()
    report = house.run_job(job)
    assert house.restored(name, report["points"][0]["sid"], "scsi0:0") == center.content(vm, 0)
    center.assert_clean()


def test_a_proxy_that_is_a_vm_there_reads_disks_that_are_attached_to_it(center: VCenter, tmp_path: Path) -> None:
    """The whole of a job by hotadd: preferred, attached, read as devices, detached, and told."""
    center.create("proxy-vm", [MIB])
    name = f"attached-{secrets.token_hex(4)}"  # a disk's UUID follows from it, and devices are the machine's
    vm = center.create(name, [3 * MIB, MIB])
    contents = {}
    for disk, size in enumerate((3 * MIB, MIB)):
        center.write(vm, disk, [(0, random.Random(disk).randbytes(size // 2))])
        contents[f"[LocalDS_0] {name}/{name}{'_1' if disk else ''}.vmdk"] = center.content(vm, disk)
    proxies = 'proxies={ local = { vm = "proxy-vm" } }'
    with vsphere_house(tmp_path / "house", center, proxies, paths=("/dev",)) as house:
        house.add_vsphere_job("near", name)
        (tmp_path / "guest").mkdir()
        with guest_of(center, "proxy-vm", contents.__getitem__, tmp_path / "guest"):
            report = house.run_job("near")
        sid = report["points"][0]["sid"]
        for disk in range(2):
            assert house.restored(name, sid, f"scsi0:{disk}") == center.content(vm, disk)
        told = json.dumps(house.holdfast("session", "show", str(report["id"])))
        assert told.count("was read from block:/dev/disk/by-id/wwn-0x") == 2
    assert center.state()["machines"]["proxy-vm"]["disks"] == ["[LocalDS_0] proxy-vm/proxy-vm.vmdk"]
    center.assert_clean()
    destroy_named(center, name)
    destroy_named(center, "proxy-vm")


@pytest.mark.parametrize("who", ["session", "mover"])
def test_a_disk_that_is_attached_when_its_reader_dies_is_detached(center: VCenter, tmp_path: Path, who: str) -> None:
    """By whoever cleans up after a session, before the snapshot goes; by the session itself after a mover."""
    proxy, vm = (center.create(f"{kind}-{secrets.token_hex(4)}", [6 * MIB]) for kind in ("proxy", "read"))
    center.write(vm, 0, [(0, os.urandom(6 * MIB))])
    content = center.content(vm, 0)
    own = center.state()["machines"][proxy.name]["disks"]
    proxies = f'proxies={{ local = {{ vm = "{proxy.name}" }} }}'
    (tmp_path / "guest").mkdir()
    with (
        vsphere_house(tmp_path / "house", center, proxies, paths=("/dev",)) as house,
        guest_of(center, proxy.name, lambda _file: content, tmp_path / "guest"),
    ):
        house.add_vsphere_job("near", vm.name, "--retry-pause", "0")
        house.holdfast("repository", "edit", "main", "--write-limit", "1 MiB")
        begun = house.holdfast("job", "run", "near", "--detach")["session"]
        movers = house.reading(begun)
        assert center.state()["machines"][proxy.name]["disks"][:-1] == own
        if who == "session":
            house.kill_session(begun)
        else:
            for pid in movers:
                with suppress(ProcessLookupError):  # one ends when the other does
                    os.kill(pid, signal.SIGKILL)
        house.holdfast("repository", "edit", "main", "--reset", "write-limit")
        if who == "session":
            center.expire_sessions()
            assert not house.holdfast("server", "clean", "vc")["failed"]
            assert center.state()["machines"][proxy.name]["disks"] == own
            center.assert_clean()
            begun = house.run_job("near")["id"]
        while house.holdfast("session", "show", str(begun))["state"] != "ended":
            time.sleep(POLL_S)
        sid = house.points(vm.name)[0]["sid"]
        assert house.restored(vm.name, sid, "scsi0:0") == content
    assert center.state()["machines"][proxy.name]["disks"] == own
    center.assert_clean()
    destroy_named(center, vm.name)
    destroy_named(center, proxy.name)


def test_a_server_is_tried_before_it_is_added(center: VCenter, house: VsphereHouse, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(f"user={center.user}\npassword=guessed\n")
    told = [f"host={center.host}", f"port={center.port}"]
    words = [word for option in told for word in ("--option", option)]
    add = ("server", "add", "other", "--plugin", "vsphere", *words, "--secret-file", secret)
    house.holdfast(*add, expect=1)
    house.holdfast(*add, "--option", f"certificate_sha256={center.certificates.fingerprint}", expect=1)
    assert [each["server"]["name"] for each in house.holdfast("server", "list")["servers"]] == ["lab", "vc"]
