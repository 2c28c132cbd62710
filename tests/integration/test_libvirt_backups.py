"""libvirt end to end: a real libvirtd and QEMU, a real agent, sessions of the manager; and what breaks tracking."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import pytest

from lab.installation import Installation, installed
from lab.libvirt_host import GRAIN, LibvirtHost, LibvirtVm, libvirt_daemon

MIB = 1 << 20
PATIENCE_S = 60.0
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibvirtHost]:
    with libvirt_daemon(tmp_path_factory.getbasetemp() / "libvirt-cache") as made:
        yield made


@pytest.fixture(scope="module")
def house(host: LibvirtHost) -> Iterator[Installation]:
    with installed(host.shared) as made:
        options = [f"{key}={value}" for key, value in host.options().items()]
        made.holdfast(
            "server", "add", "kvm", "--plugin", "libvirt", *(word for each in options for word in ("--option", each))
        )
        yield made


@pytest.fixture
def backed(house: Installation, host: LibvirtHost, request: pytest.FixtureRequest) -> Iterator[Backed]:
    yield Backed(house, host, f"v{crc32(request.node.name.encode()):08x}", getattr(request, "param", "qcow2"))
    host.clear()


class Backed:
    """A running VM with two disks, a repository and a job of its own."""

    def __init__(self, house: Installation, host: LibvirtHost, name: str, image_format: str) -> None:
        self.house, self.name, self.chance = house, name, Random(name)
        self.vm: LibvirtVm = host.vm(name, {"vda": (image_format, 8 * MIB), "vdb": (image_format, 2 * MIB)})
        self.vm.start()
        self.host = host
        self.contents: dict[str, dict[str, bytes]] = {}
        house.add_repository(name, encrypted=False)
        options = ("--server", "kvm", "--include", name, "--repository", name, "--block-size", "64 KiB")
        house.holdfast("job", "create", name, *options, "--retries", "0", "--keep-days", "1000")
        self.vm.scribble(self.chance, 25)

    def run(self, expect: int = 0) -> dict[str, dict[str, Any]]:
        """Run the job; the lines of its disks by their names. What the disks hold is remembered by the point."""
        content = {target: bytes(data) for target, data in self.vm.content.items()}
        self.report = self.house.holdfast("job", "run", self.name, expect=expect)
        for point in self.report["points"]:
            self.contents[point["sid"]] = content
        return {disk["disk"]: disk for disk in self.report["disks"]}

    def points(self) -> list[str]:
        """Newest first."""
        listed = self.house.holdfast("point", "list", "--repository", self.name)["points"]
        return [point["sid"] for point in listed]

    def wrong(self, sid: str) -> list[str]:
        """The disks that a point does not restore as they were when it was made."""
        self.house.holdfast("restore", "vm", "--point", sid, "--server", "lab", "--name", sid)
        images, contents = self.house.vms / sid, self.contents[sid]
        return [target for target, content in contents.items() if (images / f"{target}.raw").read_bytes() != content]

    def left(self) -> list[str]:
        """What there is of backups on the hypervisor: jobs, exports, overlays, files."""
        jobs = [job["id"] for job in self.vm.monitor("query-jobs")]
        exports = [export["id"] for export in self.vm.monitor("query-block-exports")]
        overlays = [word for word in self.vm.domain.XMLDesc().split("'") if word.endswith(".overlay")]
        return jobs + exports + overlays + [path.name for path in self.host.scratch.iterdir()]

    def session(self, *options: str) -> tuple[int, int]:
        """Begin a run that takes its time: its session, and the process that runs it."""
        session = self.house.holdfast("job", "run", self.name, *options, "--detach")["session"]
        with closing(sqlite3.connect(self.house.home / "manager" / "catalog.db")) as catalog:
            (process,) = catalog.execute("SELECT process FROM sessions WHERE id = ?", (session,)).fetchone()
        return session, int(json.loads(process)["pid"])

    def events(self, session: int) -> list[str]:
        with closing(sqlite3.connect(self.house.home / "manager" / "catalog.db")) as catalog:
            return [kind for (kind,) in catalog.execute("SELECT kind FROM events WHERE session = ?", (session,))]


def test_a_history_of_incrementals_restores_bit_for_bit(backed: Backed) -> None:
    assert {disk["mode"] for disk in backed.run().values()} == {"allocation"}
    for writes in (0, 1, 40):
        backed.vm.scribble(backed.chance, writes)
        disks = backed.run()
        assert {disk["mode"] for disk in disks.values()} == {"cbt"}, disks
        read = sum(disk["counters"]["read_bytes"] for disk in disks.values())
        assert read <= 2 * writes * 3 * GRAIN, "an incremental reads what was written, in whole grains"
        assert all(disk["counters"]["missed_blocks"] == 0 for disk in disks.values())
        assert not backed.left()
        assert len(backed.vm.checkpoints()) == 1, "one checkpoint is what the next run counts from"
    newest, *_, second, _first = backed.points()
    assert not backed.wrong(second) and not backed.wrong(newest)


def test_two_repositories_do_not_take_each_others_tracking_away(backed: Backed) -> None:
    other = f"{backed.name}-other"
    backed.house.add_repository(other, encrypted=False)
    options = ("--server", "kvm", "--include", backed.name, "--repository", other, "--block-size", "64 KiB")
    backed.house.holdfast("job", "create", other, *options, "--keep-days", "1000")
    backed.run()
    backed.house.holdfast("job", "run", other)
    backed.vm.scribble(backed.chance, 5)
    assert {disk["mode"] for disk in backed.run().values()} == {"cbt"}
    second = backed.house.holdfast("job", "run", other)["disks"]
    assert {disk["mode"] for disk in second} == {"cbt"}
    assert len(backed.vm.checkpoints()) == 2


def test_whatever_breaks_tracking_costs_a_comparison_and_nothing_else(backed: Backed) -> None:
    vm = backed.vm
    foreign = "<domaincheckpoint><name>somebody-elses</name></domaincheckpoint>"
    vm.domain.checkpointCreateXML(foreign, 0)

    def killed() -> None:
        vm.stop()
        vm.start()
        vm.scribble(backed.chance, 3)
        vm.kill()
        for target in vm.content:  # what QEMU had not written out is lost, as in a guest that crashes
            vm.content[target][:] = vm.read_image(target)
        vm.start()

    def forgotten() -> None:  # as when it was migrated here: the images keep their bitmaps
        for name in vm.checkpoints():
            if name != "somebody-elses":
                vm.domain.checkpointLookupByName(name).delete(2)

    def bitmap_lost() -> None:
        node = next(
            node["node-name"]
            for node in vm.monitor("query-named-block-nodes", flat=True)
            if node["drv"] == "qcow2" and Path(node["image"]["filename"]) == vm.image("vda")
        )
        name = next(name for name in vm.checkpoints() if name != "somebody-elses")
        vm.monitor("block-dirty-bitmap-remove", node=node, name=name)

    def grown() -> None:
        vm.resize("vda", 9 * MIB)

    calamities: list[tuple[Callable[[], None], dict[str, str]]] = [
        (killed, {"vda": "missing or broken bitmap", "vdb": "missing or broken bitmap"}),
        (forgotten, {"vda": "libvirt knows no checkpoint", "vdb": "libvirt knows no checkpoint"}),
        (bitmap_lost, {"vda": "missing or broken bitmap", "vdb": ""}),
        (grown, {"vda": f"it had {8 * MIB} bytes then", "vdb": ""}),
    ]
    backed.run()
    for calamity, reasons in calamities:
        calamity()
        vm.scribble(backed.chance, 5)
        disks = backed.run()
        for target, reason in reasons.items():
            assert disks[target]["mode"] == ("digest" if reason else "cbt"), (calamity.__name__, disks[target])
            assert reason in disks[target]["reason"], (calamity.__name__, disks[target])
        vm.scribble(backed.chance, 5)
        disks = backed.run()
        assert {disk["mode"] for disk in disks.values()} == {"cbt"}, (calamity.__name__, disks)
        assert not backed.wrong(backed.points()[0]), calamity.__name__
        ours = [name for name in vm.checkpoints() if name != "somebody-elses"]
        assert len(ours) == 1 and vm.bitmaps_in_images() <= {*ours, "somebody-elses"}, calamity.__name__
    assert "somebody-elses" in vm.checkpoints()


def test_a_vm_that_is_shut_off_and_started_and_a_disk_that_comes_and_goes(backed: Backed) -> None:
    backed.run()
    backed.vm.stop()
    disks = backed.run()
    assert {disk["mode"] for disk in disks.values()} == {"digest"}
    assert "the VM is off" in disks["vda"]["reason"]
    disks = backed.run()
    assert {disk["mode"] for disk in disks.values()} == {"cbt"}, "nothing has touched its images since"
    assert sum(disk["counters"]["read_bytes"] for disk in disks.values()) == 0
    backed.vm.start()
    backed.vm.attach("vdc", "qcow2", MIB)
    backed.vm.scribble(backed.chance, 10)
    disks = backed.run()
    assert (disks["vda"]["mode"], disks["vdc"]["mode"]) == ("digest", "allocation")
    assert "was off at its last backup" in disks["vda"]["reason"]
    backed.vm.scribble(backed.chance, 10)
    assert {disk["mode"] for disk in backed.run().values()} == {"cbt"}
    backed.vm.detach("vdb")
    assert set(backed.run()) == {"vda", "vdc"}
    assert len(backed.points()) == 6
    assert not backed.wrong(backed.points()[0]) and not backed.wrong(backed.points()[1])


@pytest.mark.parametrize("backed", ["raw"], indirect=True)
def test_raw_disks_are_backed_up_under_overlays_that_are_gone_afterwards(backed: Backed) -> None:
    assert {disk["mode"] for disk in backed.run().values()} == {"allocation"}
    assert not backed.left()
    backed.vm.scribble(backed.chance, 10)
    assert {disk["mode"] for disk in backed.run().values()} == {"digest"}
    assert not backed.left()
    assert not backed.wrong(backed.points()[0])
    assert all(backed.vm.read_image(target) == content for target, content in backed.vm.content.items())


@pytest.mark.parametrize("backed", ["qcow2", "raw"], indirect=True)
@pytest.mark.parametrize("event", ["SnapshotTaken", "TransferBegan", "PointCommitted"])
def test_a_session_that_is_killed_is_cleared_up_by_the_next(backed: Backed, event: str) -> None:
    backed.run()
    backed.vm.scribble(backed.chance, 20)
    if event == "TransferBegan":
        backed.house.holdfast("job", "edit", backed.name, "--bandwidth", "100 KiB")
    session, process = backed.session()
    _wait(lambda: event in backed.events(session))
    os.kill(process, signal.SIGKILL)
    backed.house.holdfast("job", "edit", backed.name, "--reset", "bandwidth")
    backed.vm.scribble(backed.chance, 20)
    disks = backed.run()
    assert not backed.left()
    assert len(backed.vm.checkpoints()) <= 1
    assert not backed.wrong(backed.points()[0]), disks
    assert {disk["mode"] for disk in disks.values()} == {"cbt" if backed.vm.formats["vda"] == "qcow2" else "digest"}


def test_a_vm_is_restored_as_new_and_in_place_and_as_images(backed: Backed) -> None:
    backed.run()
    sid = backed.points()[0]
    backed.house.holdfast("restore", "vm", "--point", sid, "--server", "kvm", "--name", f"{backed.name}-new")
    new = backed.host.raw.lookupByName(f"{backed.name}-new")
    assert new.UUIDString() != backed.vm.uuid and "52:54:00:00:00:01" not in new.XMLDesc()
    backed.vm.scribble(backed.chance, 20)
    refused = ("restore", "vm", "--point", sid, "--server", "kvm", "--overwrite")
    backed.house.holdfast(*refused, expect=1)
    backed.vm.stop()
    backed.house.holdfast(*refused)
    replaced = backed.host.raw.lookupByName(backed.name)
    assert replaced.UUIDString() == backed.vm.uuid and "52:54:00:00:00:01" in replaced.XMLDesc()
    assert not [path for path in backed.host.images.iterdir() if path == backed.vm.image("vda")], "the old disk is gone"
    assert not backed.wrong(sid)
    for target, content in backed.contents[sid].items():
        for domain in (new, replaced):
            assert backed.vm.read_image(target, domain) == content
    replaced.createWithFlags(1)
    for target, content in backed.contents[sid].items():
        backed.vm.content[target][:] = content
    assert {disk["mode"] for disk in backed.run().values()} == {"digest"}
    backed.vm.scribble(backed.chance, 5)
    assert {disk["mode"] for disk in backed.run().values()} == {"cbt"}, "it is qcow2 again, and tracked"
    assert not backed.wrong(backed.points()[0])


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
