"""Restore points copied to a repository with another key: whole, once, by what changed, and again after a crash."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from lab.installation import Installation, installed

MIB = 1 << 20
BLOCKS = 12


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


@pytest.mark.parametrize("encrypted", [(True, True), (False, True), (True, False)], ids=str)
def test_copies_are_whole_and_made_once(house: Installation, encrypted: tuple[bool, bool]) -> None:
    vm = Vm(house, f"whole-{encrypted[0]}-{encrypted[1]}".lower(), encrypted=encrypted)
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
    for copy, original in zip(copies, originals, strict=True):
        assert copy["sid"] != original["sid"]
        assert copy["origin"]["sid"] == original["sid"]
        kept = ("created", "vm_id", "vm_name", "server", "job", "size_bytes", "consistency")
        assert [copy[field] for field in kept] == [original[field] for field in kept]
    assert vm.restored(vm.far) == vm.contents

    again = vm.copy()
    assert (again["result"], again["disks"], again["points"]) == ("success", [], [])
    vm.backup(7)
    report = vm.copy()
    assert report["total"]["sent_bytes"] == report["total"]["read_bytes"] == MIB
    assert vm.restored(vm.far) == vm.contents
    house.holdfast("repository", "verify", vm.far, "--level", "2")
