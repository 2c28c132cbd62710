"""Damage is named, the next backup heals it, and every point restores bit for bit: through real movers and commands."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lab import repositories as lab
from lab.contents import assert_same
from lab.installation import BIN, Installation, installed

MIB = 1 << 20
BLOCKS = 6


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house")) as made:
        yield made


class Backed:
    """A VM with one disk of random data in a repository of its own, backed up once."""

    def __init__(self, house: Installation, name: str) -> None:
        self.house, self.name = house, name
        self.disk = house.vms / name / "disk.raw"
        self.disk.parent.mkdir()
        self.content = random.Random(name).randbytes(BLOCKS * MIB)
        self.disk.write_bytes(self.content)
        house.add_repository(name, encrypted=True)
        house.add_job(name, repository=name, include=name)
        self.backup()

    def backup(self) -> dict[str, Any]:
        return self.house.run_job(self.name)

    def copy(self) -> str:
        """All points to a repository with another key; its name."""
        far = f"{self.name}-far"
        if not (self.house.store / far).exists():
            self.house.add_repository(far, encrypted=True)
        self.house.holdfast("repository", "copy", self.name, far)
        return far

    def change(self, block: int) -> None:
        """The disk is another from now on; what it was is in the points only."""
        fresh = random.Random(f"{self.name} {block}").randbytes(MIB)
        self.content = self.content[: block * MIB] + fresh + self.content[(block + 1) * MIB :]
        self.disk.write_bytes(self.content)

    def damage(self) -> None:
        """Flip a byte in the middle of the data pack of the first point: in a record's payload."""
        packs = (self.house.store / self.name / "packs" / "d").rglob("*-d*")
        pack = max(packs, key=lambda path: path.stat().st_size)
        lab.flip(pack, pack.stat().st_size // 2)

    def verify(self, *options: str, expect: int = 0) -> str:
        """The whole log of the session, as `session follow` tells it."""
        report = self.house.holdfast("repository", "verify", self.name, *options, expect=expect)
        return log_of(self.house, report["id"])

    def restores(self) -> bool:
        """Whether every point restores bit for bit."""
        for point in self.house.points(self.name):
            to = self.house.out / f"{point['sid']}.raw"
            self.house.restore_disk(self.name, point["sid"], to)
            restored = to.read_bytes()
            to.unlink()
            if restored != self.content:
                return False
        return True


def log_of(house: Installation, session: int) -> str:
    """The whole log of a session, as `session follow` tells it."""
    command = [BIN / "holdfast", "session", "follow", str(session)]
    told = subprocess.run(command, capture_output=True, text=True, env=house.environment, check=False)
    return told.stdout + told.stderr


@pytest.mark.parametrize("level", ["1", "2"])
def test_what_verification_finds_the_next_backup_heals(house: Installation, level: str) -> None:
    vm = Backed(house, f"level{level}")
    (first,) = house.points(vm.name)
    vm.damage()
    before = {path for path in (house.store / vm.name).rglob("*") if path.is_file()}

    told = vm.verify("--level", level, expect=14)
    assert "data is lost" in told, "the checker is broken"
    assert first["sid"][:12] in told
    assert before <= {path for path in (house.store / vm.name).rglob("*") if path.is_file()}
    assert house.points(vm.name)[0]["state"] == "suspect"

    assert vm.backup()["total"]["sent_bytes"] == MIB, "the damaged block alone travels again"
    assert "in quarantine" in vm.verify("--level", "2")
    assert [point["state"] for point in house.points(vm.name)] == ["ok", "ok"]
    assert vm.restores()
    assert vm.backup()["total"]["sent_bytes"] == 0


def test_what_a_restore_finds_an_incremental_backup_heals(house: Installation) -> None:
    """The base's ids are equal to the disk's, and the block travels all the same."""
    vm = Backed(house, "restored")
    (first,) = house.points(vm.name)
    vm.damage()
    house.holdfast(
        "restore", "disk", "--vm", vm.name, "--point", first["sid"], "--to", house.out / "damaged.raw", expect=14
    )
    report = vm.backup()
    assert [disk["mode"] for disk in report["disks"]] == ["digest"]
    assert report["total"]["sent_bytes"] == MIB
    vm.verify("--level", "2")
    assert vm.restores()


def test_a_damaged_tree_is_not_built_on_twice(house: Installation) -> None:
    """A node of the base is bad and nobody has noticed: one run fails and says why, the next one heals."""
    vm = Backed(house, "tree")
    (pack,) = (path for path in (house.store / vm.name / "packs" / "m").rglob("*-m*") if b"HFND" in path.read_bytes())
    lab.flip(pack, pack.read_bytes().index(b"HFND") + 100)
    failed = house.run_job(vm.name, expect=14)
    assert failed["error"]["code"] == "object_damaged"
    assert house.points(vm.name)[0]["state"] == "suspect"
    healed = vm.backup()
    assert healed["total"]["sent_bytes"] == 0, "only the tree was bad"
    assert vm.restores()
    vm.verify("--level", "2")


def test_budgets_leave_packs_and_say_so(house: Installation) -> None:
    vm = Backed(house, "budget")
    vm.verify()
    vm.damage()
    told = vm.verify("--older-than", "1d")
    assert "0 packs read" in told
    assert "packs left by the budget" in told
    assert "data is lost" in vm.verify("--older-than", "0", "--max-duration", "1h", expect=14)
    house.holdfast("repository", "verify", vm.name, "--level", "0", "--sample", "5", expect=2)
    house.holdfast("repository", "verify", vm.name, "--level", "2", "--older-than", "1d", expect=2)


def test_a_damaged_point_that_was_asked_for_is_a_finding(house: Installation) -> None:
    vm = Backed(house, "point")
    (first,) = house.points(vm.name)
    lab.flip(house.store / vm.name / "points" / first["sid"], 60)
    for level in ("0", "2"):
        told = vm.verify("--level", level, "--point", first["sid"], expect=14)
        assert f"points/{first['sid']}: point" in told


def originals(house: Installation, vm: str) -> list[dict[str, Any]]:
    """The points that are no copies, oldest first."""
    return [point for point in reversed(house.points(vm)) if point["origin"] is None]


def heal(vm: Backed, other: str, expect: int = 0) -> tuple[dict[str, Any], str]:
    report = vm.house.holdfast("repository", "heal", vm.name, "--from", other, expect=expect)
    return report, log_of(vm.house, report["id"])


def test_a_copy_heals_what_no_disk_has_any_more(house: Installation) -> None:
    """A damaged block, then all packs of blocks, then those of trees and configurations: each time bit for bit."""
    vm = Backed(house, "twice")
    contents = [vm.content]
    vm.change(0)
    vm.backup()
    contents.append(vm.content)
    far = vm.copy()
    made = [point["sid"] for point in originals(house, vm.name)]
    vm.damage()
    assert "data is lost" in vm.verify("--level", "2", expect=14)
    before = {path for path in (house.store / vm.name).rglob("*") if path.is_file()}

    report, told = heal(vm, far)
    assert report["total"]["sent_bytes"] == report["total"]["read_bytes"] == MIB, "the damaged block alone travels"
    assert "1 thing healed, 0 still lost" in told
    assert before <= {path for path in (house.store / vm.name).rglob("*") if path.is_file()}, "nothing is deleted"
    vm.verify("--level", "2")
    assert [(point["sid"], point["state"]) for point in originals(house, vm.name)] == [(sid, "ok") for sid in made]

    for packs, sent in (("d", BLOCKS + 1), ("m", 0)):
        for path in list((house.store / vm.name / "packs" / packs).rglob("*-*")):
            path.unlink()
        report, _ = heal(vm, far)
        assert report["total"]["sent_bytes"] == sent * MIB, "what both points have lost is sent once"
        assert report["total"]["read_bytes"] == (BLOCKS + 1) * MIB, "the second tree is built on the first"
    vm.verify("--level", "2")
    for sid, content in zip(made, contents, strict=True):
        to = house.out / f"{sid}.raw"
        house.restore_disk(vm.name, sid, to)
        assert_same(to.read_bytes(), content)
    report, told = heal(vm, far)
    assert "nothing was to heal" in told
    assert report["disks"] == []


def test_what_the_other_repository_has_not_stays_lost_and_is_named(house: Installation) -> None:
    vm = Backed(house, "alone")
    far = vm.copy()
    vm.change(1)
    vm.backup()
    newest = house.points(vm.name)[0]
    for path in list((house.store / vm.name / "packs" / "d").rglob("*-d*")):
        path.unlink()
    report, told = heal(vm, far, expect=14)
    assert report["error"]["code"] == "heal_incomplete"
    assert report["total"]["sent_bytes"] == BLOCKS * MIB
    assert f"no point with the content of {vm.name}, point {newest['sid'][:12]}" in told
    vm.verify(expect=14)
