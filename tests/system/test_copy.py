"""Restore points copied to a repository with another key: whole, once, by what changed, and again after a crash."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import repositories as lab
from lab.contents import assert_same
from lab.installation import Installation, installed
from lab.processes import MOVER, children
from lab.waiting import wait_until

MIB = 1 << 20
BLOCKS = 8


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house")) as made:
        yield made


class Vm:
    """A VM with one disk of random data, a repository `NAME` that it is backed up to, and `NAME-far` for copies."""

    def __init__(self, house: Installation, name: str, *, encrypted: tuple[bool, bool] = (True, True)) -> None:
        self.house, self.name, self.far = house, name, f"{name}-far"
        self.disk = house.vms / name / "disk.raw"
        self.disk.parent.mkdir()
        self.disk.write_bytes(random.Random(name).randbytes(BLOCKS * MIB))
        self.contents: list[bytes] = []
        house.add_repository(name, encrypted=encrypted[0])
        house.add_repository(self.far, encrypted=encrypted[1])
        house.add_job(name, repository=name, include=name)

    def backup(self, *changed: int) -> None:
        """A point after these blocks have changed."""
        with self.disk.open("r+b") as file:
            for number in changed:
                file.seek(number * MIB)
                file.write(random.Random(f"{len(self.contents)} {number}").randbytes(MIB))
        self.house.run_job(self.name)
        self.contents.append(self.disk.read_bytes())

    def copy(self, *options: str, expect: int = 0) -> dict[str, Any]:
        report: dict[str, Any] = self.house.holdfast("repository", "copy", self.name, self.far, *options, expect=expect)
        return report

    def points(self, repository: str, house: Installation | None = None) -> list[dict[str, Any]]:
        """Oldest first."""
        listed = (house or self.house).holdfast("point", "list", "--repository", repository)["points"]
        return sorted(listed, key=lambda point: float(point["created"]))

    def restored(self, repository: str, house: Installation | None = None) -> list[bytes]:
        """The disk of every point of a repository, oldest first."""
        found = []
        for point in self.points(repository, house):
            to = self.house.out / f"{point['sid']}.raw"
            (house or self.house).restore_disk(self.name, point["sid"], to)
            found.append(to.read_bytes())
            to.unlink()
        return found


def test_copies_are_whole_and_made_once(house: Installation) -> None:
    vm = Vm(house, "whole")
    vm.backup()
    vm.backup(3, 4)
    vm.backup(5)
    dry = vm.copy("--dry-run")
    originals = vm.points(vm.name)
    assert [point["sid"] for point in dry["points"]] == [point["sid"] for point in originals]
    assert vm.points(vm.far) == []

    report = vm.copy()
    assert report["result"] == "success"
    assert [disk["mode"] for disk in report["disks"]] == ["allocation", "cbt", "cbt"]
    assert report["total"]["sent_bytes"] == (BLOCKS + 3) * MIB
    assert report["total"]["read_bytes"] == (BLOCKS + 3) * MIB, "what both points have is not read"
    copies = vm.points(vm.far)
    for made, original in zip(copies, originals, strict=True):
        assert made["sid"] != original["sid"]
        assert made["origin"]["sid"] == original["sid"]
        kept = ("created", "vm_id", "vm_name", "server", "job", "size_bytes", "consistency")
        assert [made[field] for field in kept] == [original[field] for field in kept]

    again = vm.copy()
    assert (again["result"], again["disks"], again["points"]) == ("success", [], [])
    vm.backup(7)
    report = vm.copy()
    assert report["total"]["sent_bytes"] == report["total"]["read_bytes"] == MIB
    assert_same(vm.restored(vm.far), vm.contents)
    house.holdfast("repository", "verify", vm.far, "--level", "2")


def test_the_repository_itself_tells_what_was_copied(house: Installation) -> None:
    """A fresh manager that knows neither: the copies come back, restore, and are not made again."""
    vm = Vm(house, "told", encrypted=(False, True))
    vm.backup()
    vm.backup(2)
    vm.copy("--latest", "1")
    assert len(vm.points(vm.far)) == 1
    vm.copy("--point", vm.points(vm.name)[0]["sid"])
    assert_same(vm.restored(vm.far), vm.contents)

    fresh = another_manager(house)
    password = ("--passphrase-file", house.home / f"{vm.far}.pass")
    fresh.holdfast("repository", "add", vm.far, "--agent", "local", "--path", house.store / vm.far, *password)
    fresh.holdfast("repository", "add", vm.name, "--agent", "local", "--path", house.store / vm.name)
    assert {point["origin"]["sid"] for point in vm.points(vm.far, fresh)} == {
        point["sid"] for point in vm.points(vm.name, fresh)
    }
    assert_same(vm.restored(vm.far, fresh), vm.contents)
    assert fresh.holdfast("repository", "copy", vm.name, vm.far)["points"] == []
    assert fresh.holdfast("repository", "copy", vm.far, vm.name)["points"] == [], "nor back"


def another_manager(house: Installation) -> Installation:
    """A second manager, which knows the same agent and nothing else."""
    fresh = copy.copy(house)
    fresh.environment = {**house.environment, "HOLDFAST_HOME": str(house.home / "fresh")}
    house.agent_command("authorize", fresh.holdfast("init")["public_key"], "--name", "fresh")
    agent_key = json.loads(house.agent_command("show", "--output", "json"))["public_key"]
    fresh.holdfast("agent", "add", "local", f"127.0.0.1:{house.port}", agent_key)
    return fresh


def test_copies_have_a_retention_of_their_own(house: Installation) -> None:
    """By the job that they are filed under. One that was pruned is not made again, but for somebody who names it."""
    vm = Vm(house, "kept", encrypted=(False, False))
    vm.backup()
    vm.backup(1)
    older, newer = (point["sid"] for point in vm.points(vm.name))
    one = ("--keep-days", "0", "--keep-count", "1", "--keep-minimum", "1")
    house.add_job("one", *one, repository=vm.far, include=vm.name)
    house.add_job("held", "--immutable", "1 d", repository=vm.far, include=vm.name)

    assert len(vm.copy("--job", "one")["points"]) == 2
    (kept,) = vm.points(vm.far)
    assert (kept["origin"]["sid"], kept["job"]) == (newer, "one")
    dry = vm.copy("--dry-run")
    assert (dry["points"], dry["present"], dry["pruned"]) == ([], 1, 1)
    assert vm.copy("--job", "one")["points"] == []

    vm.copy("--point", older, "--job", "held")
    (again, _) = vm.points(vm.far)
    assert (again["origin"]["sid"], again["job"]) == (older, "held")
    assert again["retained_until"] > time.time() + 80_000
    assert len(vm.points(vm.name)) == 2


def test_a_damaged_block_costs_its_point_and_no_other(house: Installation) -> None:
    vm = Vm(house, "damaged", encrypted=(True, False))
    vm.backup()
    vm.backup(3)
    vm.backup(3)
    bad = vm.points(vm.name)[1]
    (pack,) = (house.store / vm.name / "packs" / "d").rglob(f"{bad['sid']}-*")
    lab.flip(pack, pack.stat().st_size // 2)

    report = vm.copy(expect=3)
    assert report["result"] == "partial"
    (problem,) = [each for each in report["problems"] if each["code"] == "origin_damaged"]
    assert problem["message"].startswith(f"block 3 of disk disk.raw of restore point {bad['sid'][:12]} cannot be read")
    whole = [vm.contents[0], vm.contents[2]]
    assert_same(vm.restored(vm.far), whole)
    assert [point["state"] for point in vm.points(vm.name)] == ["ok", "suspect", "ok"]

    report = vm.copy("--strict", expect=4)
    assert (report["result"], report["points"]) == ("warning", [])
    assert bad["sid"][:12] in report["problems"][0]["message"]
    back = ("repository", "copy", vm.far, vm.name)
    assert house.holdfast(*back)["points"] == [], "what is there is not copied back"
    first = vm.points(vm.name)[0]["sid"]
    lab.flip(house.store / vm.name / "points" / first, 60)
    (made,) = house.holdfast(*back)["points"]
    house.restore_disk(vm.name, made["sid"], house.out / "back.raw")
    assert_same((house.out / "back.raw").read_bytes(), vm.contents[0], "a point whose document is damaged comes back")


@pytest.mark.parametrize("victim", ["session", "source", "stop"])
def test_a_copy_that_is_cut_off_leaves_no_half_point(house: Installation, victim: str) -> None:
    """Killed in the middle of its second point: the first stays, and the next run (or the session itself) goes on."""
    vm = Vm(house, f"cut-{victim}", encrypted=(False, False))
    vm.backup()
    vm.backup(*range(BLOCKS))
    first = vm.points(vm.name)[0]["sid"]
    vm.copy("--point", first)
    session = house.holdfast("repository", "copy", vm.name, vm.far, "--bandwidth", "2 MiB", "--detach")["session"]
    process = house.holdfast("session", "show", str(session))["process"]
    follow = subprocess.Popen(
        house.command("session", "follow", str(session)), stdout=subprocess.PIPE, text=True, env=house.environment
    )
    with follow:
        assert follow.stdout is not None
        for line in follow.stdout:
            if any(task["counters"]["sent_bytes"] for task in json.loads(line).get("tasks", ())):
                break
        cut_off(house, session, victim, int(process.split()[1]))
        for line in follow.stdout:
            report = json.loads(line).get("report")
    copied = {point["origin"]["sid"] for point in vm.points(vm.far)}
    if victim == "source":
        assert report["result"] == "success", "the task was tried again"
    else:
        assert (report["result"], copied) == ({"session": "failed", "stop": "cancelled"}[victim], {first})
        vm.copy()
    assert_same(vm.restored(vm.far), vm.contents)
    house.stop_agent()  # all leases end with it
    house.start_agent()
    for repository in (vm.name, vm.far):
        house.holdfast("repository", "show", repository)  # opening it clears what the dead left
        left = [path for name in ("tmp", "sessions") for path in (house.store / repository / name).iterdir()]
        assert left == []


def cut_off(house: Installation, session: int, victim: str, process: int) -> None:
    assert house.agent is not None
    agent = house.agent.pid
    # The reader, then what reads from it and stores; for a moment those of the session before may be there as well.
    wait_until(lambda: len(children(agent, MOVER)) == 2, "two movers")
    movers = children(agent, MOVER)
    if victim == "stop":
        house.holdfast("session", "stop", str(session))
    elif victim == "session":
        os.kill(process, signal.SIGKILL)
    else:
        os.kill(movers[-1], signal.SIGKILL)
