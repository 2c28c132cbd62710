"""A group of repositories as one target: where points go, and what becomes of them when a member is sealed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.installation import Installation, installed

MIB = 1 << 20
BLOCKS = 4


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house")) as made:
        yield made


class Pool:
    """A group `NAME` of the repositories `NAME-1` and `NAME-2` with different keys, and a VM that goes there."""

    def __init__(self, house: Installation, name: str, *options: str) -> None:
        self.house, self.name = house, name
        self.members = (f"{name}-1", f"{name}-2")
        for member in self.members:
            house.add_repository(member, encrypted=True)
        self.disk = house.vms / name / "disk.raw"
        self.disk.parent.mkdir()
        self.disk.write_bytes(random.randbytes(BLOCKS * MIB))
        members = [text for member in self.members for text in ("--member", member)]
        house.holdfast("repository", "group", "create", name, *members, "--free-floor", "1 MiB")
        house.add_job(name, *options, repository=name, include=name)
        self.contents: dict[str, bytes] = {}

    def backup(self, *changed: int, expect: int = 0) -> dict[str, Any]:
        """A point after these blocks have changed; the session's report."""
        with self.disk.open("r+b") as file:
            for block in changed:
                file.seek(block * MIB)
                file.write(random.randbytes(MIB))
        report = self.house.run_job(self.name, expect)
        for point in report["points"]:
            self.contents[point["sid"]] = self.disk.read_bytes()
        return report

    def points(self) -> list[dict[str, Any]]:
        """Of the whole group, oldest first."""
        listed: list[dict[str, Any]] = self.house.holdfast("point", "list", "--repository", self.name)["points"]
        return sorted(listed, key=lambda point: float(point["created"]))

    def content_of(self, point: str) -> bytes:
        to: Path = self.house.out / f"{point}.raw"
        self.house.restore_disk(self.name, point, to)
        return to.read_bytes()


def test_a_vm_stays_with_its_member_until_that_is_sealed_and_goes_on_elsewhere(house: Installation) -> None:
    pool = Pool(house, "pool", "--keep-days", "0", "--keep-count", "3", "--keep-minimum", "1")
    first = pool.backup()
    (home,) = {disk["repository"] for disk in first["disks"]}
    again = pool.backup(1)
    assert [(disk["repository"], disk["mode"]) for disk in again["disks"]] == [(home, "digest")]
    house.holdfast("repository", "seal", home)
    moved = pool.backup(2)
    other = next(member for member in pool.members if member != home)
    assert [(disk["repository"], disk["mode"]) for disk in moved["disks"]] == [(other, "allocation")]
    assert moved["total"]["sent_bytes"] == BLOCKS * MIB
    (told,) = [step["details"] for step in moved["steps"] if step["step"] == "schedule"]
    reason = f"{home}, which has the VM's points, is sealed"
    assert any(f"pool goes to {other}: most room" in text and reason in text for text in told)
    assert len(pool.points()) == 3

    house.holdfast("repository", "unseal", home)
    stays = pool.backup(3)
    assert [(disk["repository"], disk["mode"]) for disk in stays["disks"]] == [(other, "digest")]
    kept = pool.points()
    assert [point["sid"] for point in kept] == list(pool.contents)[1:], "three of the group, not of each member"
    assert [point["repository"] for point in kept] == [home, other, other]
    for point in kept:
        assert pool.content_of(point["sid"]) == pool.contents[point["sid"]]
    shown = house.holdfast("repository", "group", "show", "pool")
    assert sorted(member["points"] for member in shown["members"]) == [1, 2]
    _cared_for_as_one(house, pool, kept)
    assert house.holdfast("prune", "--repository", "pool", "--dry-run")["to_prune"] == 0


def _cared_for_as_one(house: Installation, pool: Pool, kept: list[dict[str, Any]]) -> None:
    """Each command prints one document for the group, and in it what it would print for each member."""
    results: dict[str, list[Any]] = {}
    for command, *options in (("stats",), ("rescan",), ("gc",), ("verify", "--level", "2"), ("heal", "--from", "pool")):
        whole = house.holdfast("repository", command, pool.name, *options)
        assert (whole["group"], [each["repository"] for each in whole["members"]]) == (pool.name, list(pool.members))
        assert [each["exit_code"] for each in whole["members"]] == [0, 0]
        results[command] = [each["result"] for each in whole["members"]]
        if command == "stats":
            assert whole["packs_bytes"] == sum(each["packs_bytes"] for each in results["stats"])
            assert whole["total"]["logical_bytes"] == 3 * BLOCKS * MIB
    assert sorted(each["points"] for each in results["rescan"]) == [1, 2]
    assert [each["kind"] for each in results["gc"] + results["verify"]] == ["gc", "gc", "verify", "verify"]
    newest = kept[-1]
    one = house.holdfast("repository", "verify", pool.name, "--point", newest["sid"])
    assert [each["repository"] for each in one["members"]] == [newest["repository"]]


def test_without_a_member_that_can_the_vm_fails_and_each_is_named(house: Installation) -> None:
    pool = Pool(house, "none", "--retries", "0")
    for member in pool.members:
        house.holdfast("repository", "seal", member)
    report = pool.backup(expect=1)
    (problem,) = [each for each in report["problems"] if each["code"] == "no_member_takes"]
    assert all(f"{member} is sealed" in problem["message"] for member in pool.members)
    house.holdfast("job", "edit", "none", "--repository", pool.members[0])
    assert house.run_job("none", expect=1)["error"]["code"] == "repository_sealed"
    house.holdfast("repository", "unseal", pool.members[1])
    house.holdfast("job", "edit", "none", "--repository", "none")
    assert [disk["repository"] for disk in pool.backup()["disks"]] == [pool.members[1]]
