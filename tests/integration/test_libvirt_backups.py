"""libvirt end to end: a real libvirtd and QEMU, a real agent, sessions of the manager; and what breaks tracking."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from random import Random
from typing import Any
from zlib import crc32

import pytest

from lab.installation import Installation, installed
from lab.libvirt_host import GRAIN, LibvirtHost, LibvirtVm, libvirt_daemon
from lab.slots import assert_waits_for
from lab.waiting import wait_until

MIB = 1 << 20
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with libvirt_daemon() as made:
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
    for writes in (0, 40):
        backed.vm.scribble(backed.chance, writes)
        disks = backed.run()
        assert {disk["mode"] for disk in disks.values()} == {"cbt"}, disks
        read = sum(disk["counters"]["read_bytes"] for disk in disks.values())
        assert read <= 2 * writes * 3 * GRAIN, "an incremental reads what was written, in whole grains"
        assert all(disk["counters"]["missed_blocks"] == 0 for disk in disks.values())
        assert not backed.left()
        assert len(backed.vm.checkpoints()) == 1, "one checkpoint is what the next run counts from"
    assert not backed.wrong(backed.points()[0])


@pytest.mark.parametrize(
    ("backed", "events", "mode"),
    [("qcow2", ("SnapshotTaken", "TransferBegan", "PointCommitted"), "cbt"), ("raw", ("TransferBegan",), "digest")],
    indirect=["backed"],
    ids=["backup job", "overlays"],
)
def test_a_session_that_is_killed_is_cleared_up_by_the_next(backed: Backed, events: tuple[str, ...], mode: str) -> None:
    backed.run()
    for event in events:
        backed.vm.scribble(backed.chance, 20)
        if event == "TransferBegan":  # long enough to be in the midst of it
            backed.house.holdfast("job", "edit", backed.name, "--bandwidth", "100 KiB")
        session, process = backed.session()
        wait_until(lambda number=session, what=event: what in backed.events(number), event)
        with suppress(ProcessLookupError):  # little is left to be done when its point is there
            os.kill(process, signal.SIGKILL)
        if event == "TransferBegan":
            backed.house.holdfast("job", "edit", backed.name, "--reset", "bandwidth")
        backed.vm.scribble(backed.chance, 20)
        disks = backed.run()
        assert not backed.left(), "neither job nor export, overlay, scratch file or socket"
        assert len(backed.vm.checkpoints()) == (mode == "cbt")
        assert {disk["mode"] for disk in disks.values()} == {mode}, event
        assert all(disk["counters"]["missed_blocks"] == 0 for disk in disks.values())
    assert not backed.wrong(backed.points()[0])


def test_an_agent_that_is_killed_in_mid_transfer_leaves_nothing_on_the_hypervisor(backed: Backed) -> None:
    backed.run()
    backed.vm.scribble(backed.chance, 20)
    backed.house.holdfast("job", "edit", backed.name, "--bandwidth", "100 KiB")
    session, _ = backed.session()
    wait_until(lambda: "TransferBegan" in backed.events(session), "the transfer")
    backed.house.kill_agent()
    backed.house.start_agent()
    backed.house.holdfast("job", "edit", backed.name, "--reset", "bandwidth")
    wait_until(lambda: "SessionEnded" in backed.events(session), "the end of the session")
    assert not backed.left() and len(backed.vm.checkpoints()) == 1, "the failed session itself has removed its snapshot"
    backed.vm.scribble(backed.chance, 20)
    assert {disk["mode"] for disk in backed.run().values()} == {"cbt"}, "what changed since the point before is known"
    assert not backed.wrong(backed.points()[0])


def test_a_vm_is_restored_as_new_and_in_place_and_as_images(backed: Backed) -> None:
    backed.run()
    sid = backed.points()[0]
    backed.house.holdfast("restore", "vm", "--point", sid, "--server", "kvm", "--name", f"{backed.name}-new")
    new = backed.host.raw.lookupByName(f"{backed.name}-new")
    assert new.UUIDString() != backed.vm.uuid and "52:54:00:00:00:01" not in new.XMLDesc()
    backed.vm.scribble(backed.chance, 20)
    in_place = ("restore", "vm", "--point", sid, "--server", "kvm", "--overwrite")
    backed.house.holdfast(*in_place, expect=11)
    backed.vm.stop()
    backed.house.holdfast(*in_place)
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


def test_a_vm_is_rolled_back_in_place_and_tracked_on(backed: Backed) -> None:
    backed.run()
    backed.vm.scribble(backed.chance, 10)
    backed.run()
    older, newest = reversed(backed.points())
    in_place = ("restore", "vm", "--server", "kvm", "--in-place", "--point")
    backed.vm.scribble(backed.chance, 15)
    refused = backed.house.holdfast(*in_place, newest, expect=11)
    assert "shut it down" in json.dumps(refused["problems"])
    for point, modes in ((newest, {"cbt"}), (older, {"digest"})):
        backed.vm.stop()
        before = {target: bytes(content) for target, content in backed.vm.content.items()}
        report = backed.house.holdfast(*in_place, point)
        assert {disk["mode"] for disk in report["disks"]} == modes, report["disks"]
        for disk in report["disks"]:
            content, counters = backed.contents[point][disk["disk"]], disk["counters"]
            differs = _differing(before[disk["disk"]], content) * GRAIN
            assert counters["sent_bytes"] + counters["zero_bytes"] == differs, "just what differed was written"
            assert backed.vm.read_image(disk["disk"]) == content
            backed.vm.content[disk["disk"]][:] = content
        backed.vm.start()
        backed.vm.scribble(backed.chance, 5)
    assert {disk["mode"] for disk in backed.run().values()} == {"cbt"}, "its bitmaps know what was rolled back"
    assert not backed.wrong(backed.points()[0])


def test_limits_hold_for_its_host_and_for_where_its_disks_lie(backed: Backed) -> None:
    limits = ("max-tasks-per-host", "max-tasks-per-datastore")
    backed.house.holdfast("server", "edit", "kvm", *(word for limit in limits for word in (f"--{limit}", "1")))
    assert_waits_for(backed.house, backed.name, f"hypervisor host kvm/{socket.gethostname()}")
    assert_waits_for(backed.house, backed.name, f"datastore kvm/{backed.host.images}")
    backed.house.holdfast("server", "edit", "kvm", *(word for limit in limits for word in ("--reset", limit)))


def _differing(one: bytes, other: bytes) -> int:
    """How many grains differ."""
    return sum(one[at : at + GRAIN] != other[at : at + GRAIN] for at in range(0, len(one), GRAIN))
