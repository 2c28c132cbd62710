"""Backups of a running QEMU end to end: manager session, agent, plugin and the VM's own block layer.

The VM has two disks, qcow2 and raw. Every point is compared with what the disks held when its snapshot was taken.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from random import Random
from typing import Any
from zlib import crc32

import pytest

from holdfast_plugins.hypervisors.tracking_names import parse_tracking_name
from lab.guest.monitors import Monitor
from lab.installation import Installation, installed
from lab.processes import MOVER, children, program
from lab.qemu_vms import GRAIN, MIB, QemuVm
from lab.slots import assert_waits_for
from lab.waiting import listens, wait_until

DISKS = {"root": ("qcow2", 8 * MIB + 512), "data": ("raw", 4 * MIB)}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture
def guarded(house: Installation, request: pytest.FixtureRequest) -> Iterator[Guarded]:
    name = f"q{crc32(request.node.name.encode())}"
    with QemuVm(house.home / name, dict(DISKS)) as vm:
        yield Guarded(house, name, vm)


class Guarded:
    """A VM with a server, a repository and a job of its own."""

    def __init__(self, house: Installation, name: str, vm: QemuVm) -> None:
        self.house, self.name, self.vm, self.chance = house, name, vm, Random(name)
        self.catalog = house.home / "manager" / "catalog.db"
        self.contents: dict[str, dict[str, bytes]] = {}
        vms = json.dumps([f"vm={vm.monitor}"])
        self.restored = vm.folder / "restored"
        self.restored.mkdir()
        options = {"vms": vms, "scratch_dir": vm.scratch, "restore_dir": self.restored}
        told = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
        house.holdfast("server", "add", name, "--plugin", "qemu", *told)
        self.add_job(name)
        self.clean = vm.traces()
        vm.scribble(self.chance, 30)

    def add_job(self, name: str) -> None:
        """Another job for the VM, with a repository of its own."""
        self.house.add_repository(name, encrypted=False)
        options = ("--server", self.name, "--include", "vm", "--repository", name, "--block-size", "64 KiB")
        self.house.holdfast("job", "create", name, *options, "--retries", "0", "--keep-days", "1000")

    def run(self, expect: int = 0, job: str = "") -> dict[str, dict[str, Any]]:
        """Run a job; the lines of its disks. What the disks held is remembered by its point."""
        contents = {disk: self.vm.content(disk) for disk in self.vm.disks}
        self.report = self.house.holdfast("job", "run", job or self.name, expect=expect)
        for point in self.report["points"]:
            self.contents[point["sid"]] = contents
        return {disk["disk"]: disk for disk in self.report["disks"]}

    def modes(self, job: str = "") -> dict[str, str]:
        return {name: disk["mode"] for name, disk in self.run(job=job).items()}

    def newest(self, job: str = "") -> str:
        listed = self.house.holdfast("point", "list", "--repository", job or self.name)["points"]
        return str(listed[0]["sid"])

    def right(self, sid: str) -> bool:
        """Whether a point restores what the disks held when it was made."""
        self.house.holdfast("restore", "vm", "--point", sid, "--server", "lab", "--name", sid)
        restored = self.house.vms / sid
        return all((restored / f"{disk}.raw").read_bytes() == data for disk, data in self.contents[sid].items())

    def events(self, session: int) -> list[str]:
        with closing(sqlite3.connect(self.catalog)) as connection:
            return [kind for (kind,) in connection.execute("SELECT kind FROM events WHERE session = ?", (session,))]

    def process(self, session: int) -> int:
        with closing(sqlite3.connect(self.catalog)) as connection:
            (process,) = connection.execute("SELECT process FROM sessions WHERE id = ?", (session,)).fetchone()
        return int(json.loads(process)["pid"])

    def tracked(self, disk: str) -> int:
        """How many bitmaps of Holdfast a disk has."""
        return sum(parse_tracking_name(name) is not None for name in self.vm.bitmaps(disk))


def test_limits_hold_for_its_host_and_for_where_its_disks_lie(guarded: Guarded) -> None:
    options = ("--max-tasks-per-host", "1", "--max-tasks-per-datastore", "1")
    guarded.house.holdfast("server", "edit", guarded.name, *options)
    assert_waits_for(guarded.house, guarded.name, f"hypervisor host {guarded.name}/{socket.gethostname()}")
    assert_waits_for(guarded.house, guarded.name, f"datastore {guarded.name}/{guarded.vm.folder}")


def test_a_history_of_backups_restores_bit_for_bit(guarded: Guarded) -> None:
    assert guarded.modes() == {"root": "allocation", "data": "allocation"}
    for writes in (2, 30):
        touched = guarded.vm.scribble(guarded.chance, writes)
        disks = guarded.run()
        for name, disk in disks.items():
            blocks = {n for d, start, length in touched if d == name for n in grains(start, length)}
            assert disk["mode"] == "cbt", disk["reason"]
            assert disk["counters"]["read_bytes"] <= len(blocks) * GRAIN
            assert disk["counters"]["missed_blocks"] == 0
    assert guarded.right(guarded.newest())
    assert guarded.vm.traces() == guarded.clean
    assert (guarded.tracked("root"), guarded.tracked("data")) == (1, 1)


def test_a_restored_vm_is_started_by_its_start_file(guarded: Guarded) -> None:
    guarded.run()
    point = guarded.newest()
    guarded.house.holdfast("restore", "vm", "--point", point, "--server", guarded.name, "--name", "again")
    folder = guarded.restored / "again"
    for disk, content in guarded.contents[point].items():
        assert (folder / f"{disk}.raw").read_bytes() == content, disk
    assert (folder / "start").stat().st_mode & 0o777 == 0o700
    with program([folder / "start"], cwd="/", stdout=subprocess.DEVNULL):
        wait_until(lambda: listens(folder / "lab.qmp"), "QEMU to listen")
        monitor = Monitor(folder / "lab.qmp")
        assert monitor.run("query-name") == {"name": "again"}
        images = {each["qdev"].split("/")[3]: each["inserted"]["image"] for each in monitor.run("query-block")}
        assert {disk: image["format"] for disk, image in images.items()} == {"root": "raw", "data": "raw"}
        monitor.close()
    assert guarded.vm.lab.run("query-status")["status"] == "prelaunch", "the original is as it was"


def test_a_vm_is_rolled_back_in_place_and_tracked_on(guarded: Guarded) -> None:
    guarded.run()
    point = guarded.newest()
    in_place = ("restore", "vm", "--point", point, "--server", guarded.name, "--name", "vm", "--in-place")
    guarded.vm.scribble(guarded.chance, 10)
    guarded.house.holdfast(*in_place, expect=11)
    guarded.vm.stop()
    before = {disk: guarded.vm.content(disk) for disk in DISKS}
    disks = {disk["disk"]: disk for disk in guarded.house.holdfast(*in_place)["disks"]}
    assert {name: disk["mode"] for name, disk in disks.items()} == {"root": "cbt", "data": "digest"}
    for name, disk in disks.items():
        content, counters = guarded.contents[point][name], disk["counters"]
        assert guarded.vm.content(name) == content
        written = counters["sent_bytes"] + counters["zero_bytes"]
        assert written == sum(
            len(content[at : at + GRAIN])
            for at in range(0, len(content), GRAIN)
            if content[at : at + GRAIN] != before[name][at : at + GRAIN]
        )
    guarded.vm.start()
    guarded.vm.scribble(guarded.chance, 5)
    assert guarded.modes() == {"root": "cbt", "data": "digest"}
    assert guarded.right(guarded.newest())


def test_tracking_that_is_lost_costs_a_comparison(guarded: Guarded) -> None:
    """QEMU is killed, and a job for another repository begins; the first one goes on where it was."""
    guarded.run()
    guarded.vm.scribble(guarded.chance, 5)
    guarded.vm.kill()
    guarded.vm.start()
    disks = guarded.run()
    assert {disk["mode"] for disk in disks.values()} == {"digest"}
    assert "change tracking is lost (qemu-bitmaps: the bitmap holdfast-" in disks["root"]["reason"]
    guarded.add_job(other := f"{guarded.name}-other")
    assert guarded.modes(other) == {"root": "allocation", "data": "allocation"}
    guarded.vm.scribble(guarded.chance, 5)
    assert guarded.modes() == {"root": "cbt", "data": "cbt"}
    assert guarded.right(guarded.newest())
    assert guarded.modes(other) == {"root": "cbt", "data": "cbt"}


def test_a_session_that_is_killed_leaves_a_guest_that_runs(guarded: Guarded) -> None:
    """In the midst of the transfer; then the agent, then QEMU. Each time the next run is right and nothing is left."""
    guarded.run()
    house = guarded.house
    for victim in ("session", "movers", "qemu"):
        guarded.vm.io("root", *(f"write -s /dev/urandom {start} {MIB}" for start in range(0, 8 * MIB, MIB)))
        house.holdfast("job", "edit", guarded.name, "--bandwidth", "200 KiB")
        session = house.holdfast("job", "run", guarded.name, "--detach")["session"]
        wait_until(lambda number=session: "TransferBegan" in guarded.events(number), "the transfer")
        assert guarded.vm.traces() != guarded.clean
        guarded.vm.scribble(guarded.chance, 5)
        if victim == "session":
            os.kill(guarded.process(session), signal.SIGKILL)
        elif victim == "movers":
            assert house.agent is not None
            for mover in children(house.agent.pid, MOVER):
                with suppress(ProcessLookupError):
                    os.kill(mover, signal.SIGKILL)
        else:
            guarded.vm.kill()
        if victim != "session":
            wait_until(
                lambda number=session: house.holdfast("session", "show", str(number))["state"] == "ended", "its end"
            )
        if victim == "qemu":
            guarded.vm.start()
        house.holdfast("job", "edit", guarded.name, "--reset", "bandwidth")
        modes = guarded.modes()
        assert set(modes.values()) == {"digest" if victim == "qemu" else "cbt"}, (victim, modes)
        assert guarded.vm.traces() == guarded.clean, f"something is left after the death of the {victim}"
        assert (guarded.tracked("root"), guarded.tracked("data")) == (1, 1)
    assert guarded.right(guarded.newest())


def grains(start: int, length: int) -> range:
    return range(start // GRAIN, (start + length - 1) // GRAIN + 1)
