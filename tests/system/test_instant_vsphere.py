"""`holdfast instant` on a server of kind `vsphere`: a simulated host mounts the share of an encrypted repository.

No guest runs there; what it would read and write goes over NFS by a client of the test's own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from holdfast_agent.export.nfs.protocol import PORTMAPPER_PORT
from lab.installation import CommandFailed
from lab.instants import left_over, listed
from lab.nfs_client import RawNfs
from lab.nfs_exports import own_address
from lab.vcenter import Fault, VCenter, vcenter
from lab.vsphere_backups import destroy_named, machine_of, named, service_of
from lab.vsphere_house import VsphereHouse
from lab.waiting import wait_until

MIB = 1 << 20
SIZE = 4 * MIB
NAME = "web-instant"


class Place(NamedTuple):
    address: str
    path: str


def answers(place: Place) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((place.address, PORTMAPPER_PORT)) == 0


class House:
    """A point of the VM "web" with two disks, and an agent that may serve one VM over NFS."""

    def __init__(self, center: VCenter, home: Path) -> None:
        self.center, self.address = center, own_address()
        self.house = VsphereHouse(home, center)
        with self.house.agent_config.open("a") as file:
            file.write(f'\n[export]\nnfs_addresses = ["{self.address}"]\n')
        self.house.begin("restore_datastore=LocalDS_1")
        vm = center.create("web", [SIZE, MIB])
        center.write(vm, 0, [(MIB, os.urandom(MIB))])
        self.house.add_vsphere_job("web", "web")
        self.house.run_job("web")
        self.point = center.content(vm, 0)

    def start(self) -> str:
        self.content = bytearray(self.point)
        line = self.house.holdfast("instant", "start", "--vm", "web", "--point", "latest", "--server", "vc")["instant"]
        assert (line["state"], line["name"]) == ("serving", NAME)
        assert self.running
        return str(line["session"])

    @property
    def running(self) -> bool:
        with service_of(self.center) as service:
            return str(machine_of(service, named(self.center, NAME)).runtime.powerState) == "poweredOn"

    @property
    def place(self) -> Place:
        (folder,) = left_over(self.house)
        return Place(self.address, f"/holdfast/{folder.name}")

    def guest(self, offset: int, data: bytes = b"") -> bytes:
        """What the guest's first disk holds after it wrote ``data`` at ``offset``, durable."""
        wait_until(lambda: answers(self.place), "the address to answer")  # as a host does
        with RawNfs(self.place) as client:
            _, root = client.mounted()
            descriptor = self.center.state()["machines"][NAME]["disks"][0].partition("] ")[2]
            status, flat = client.lookup(root, descriptor.replace(".vmdk", "-flat.vmdk"))
            assert not status
            if data:
                assert client.write(flat, offset, data)[0] == 0
                self.content[offset : offset + len(data)] = data
            return b"".join(client.read(flat, at, MIB)[1] for at in range(0, SIZE, MIB))

    @property
    def traces(self) -> list[object]:
        state = self.center.state()
        shares = [name for name in state["datastores"] if name.startswith("holdfast-")]
        vms = [name for name in state["machines"] if name != "web"]
        return [*listed(self.house), *left_over(self.house), *shares, *vms]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with vcenter() as center:
        made = House(center, tmp_path_factory.mktemp("h"))
        try:
            yield made
        finally:
            made.house.stop_agent()


def test_a_vm_runs_from_its_point_through_a_kill_of_the_agent_and_moves_while_it_runs(house: House) -> None:
    number = house.start()
    assert house.guest(2 * MIB, b"written" * 1000) == house.content
    house.house.kill_agent()
    house.house.start_agent()
    assert house.guest(3 * MIB, b"after a restart" * 100) == house.content
    report = house.house.holdfast("instant", "migrate", number)
    assert (report["kind"], report["result"]) == ("settle", "success")
    assert house.traces == [NAME]
    assert house.running
    assert not house.house.points("web")[0]["held"]
    moved = named(house.center, NAME)
    assert house.center.content(moved, 0) == house.content
    assert all(file.startswith("[LocalDS_1] ") for file in house.center.state()["machines"][NAME]["disks"])
    with pytest.raises(CommandFailed, match="exists already"):
        house.start()
    destroy_named(house.center, NAME)
    wait_until(lambda: house.traces == [], "nothing to be left")


def test_stop_keeps_or_discards_what_was_written(house: House) -> None:
    number = house.start()
    house.guest(MIB, b"kept" * 1000)
    assert house.house.holdfast("instant", "stop", number, "--keep")["result"] == "success"
    assert [type(trace) for trace in house.traces] == [dict, type(house.house.home)], "the overlay alone is left"
    line = house.house.holdfast("instant", "resume", number)["instant"]
    assert (house.running, house.guest(0) == house.content) == (True, True)
    assert house.house.holdfast("instant", "stop", str(line["session"]))["result"] == "success"
    assert house.traces == []


def test_a_start_that_fails_leaves_nothing(house: House) -> None:
    for fault in (Fault("PowerOnVM_Task", "FileLocked", call=True), Fault("CreateVM_Task", "NoPermission", call=True)):
        with house.center.faults(fault), pytest.raises(CommandFailed, match="does not run it"):
            house.start()
        wait_until(lambda: house.traces == [], "nothing to be left")


def test_a_session_that_dies_in_a_migration_leaves_the_vm_where_it_runs(house: House) -> None:
    """The next one brings it to its end, and nothing stays mounted."""
    number = house.start()
    with house.center.faults(Fault("RelocateVM_Task", "FileLocked", delay_ms=1500)):
        session = house.house.holdfast("instant", "migrate", number, "--detach")["session"]
        wait_until(lambda: house.center.state()["tasks"] == 1, "a task")
        house.house.kill_session(int(session))
        wait_until(lambda: house.center.state()["tasks"] == 0, "the task's end")
    assert house.running
    assert house.house.holdfast("instant", "migrate", number)["result"] == "success"
    assert house.traces == [NAME]
    destroy_named(house.center, NAME)


def test_an_address_serves_one_vm_at_a_time(house: House) -> None:
    number = house.start()
    with pytest.raises(CommandFailed, match=house.address):
        house.house.holdfast(
            "instant", "start", "--vm", "web", "--point", "latest", "--server", "vc", "--name", "other"
        )
    assert house.house.holdfast("instant", "stop", number)["result"] == "success"
    wait_until(lambda: house.traces == [], "nothing to be left")
