"""A member of a group is emptied into the others, and back; what kills do is in fault/test_evacuation_killed.py."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from lab.installation import Installation, installed

MIB = 1 << 20
BLOCKS = 4
VMS = ("db", "web")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The group `pool` of `old`, which has all the points, and `new`; each has a key of its own."""
    with installed(tmp_path_factory.mktemp("house")) as made:
        for member in ("old", "new"):
            made.add_repository(member, encrypted=True)
        made.holdfast(
            "repository", "group", "create", "pool", "--member", "old", "--member", "new", "--free-floor", "1 MiB"
        )
        for vm in VMS:
            (made.vms / vm).mkdir()
        made.holdfast("repository", "seal", "new")
        made.add_job("all", "--include", VMS[0], repository="pool", include=VMS[1])
        yield made


def identity(point: dict[str, Any]) -> str:
    return str(point["origin"]["sid"] if point["origin"] else point["sid"])


def points(house: Installation, *members: str) -> list[dict[str, Any]]:
    """What the repositories themselves have."""
    for member in members:
        house.holdfast("repository", "rescan", member)
    found = [house.holdfast("point", "list", "--repository", member)["points"] for member in members]
    return [point for listed in found for point in listed]


def test_all_points_stand_elsewhere_and_backups_go_on_from_them(house: Installation) -> None:
    contents: dict[str, bytes] = {}
    for number in range(2):
        for vm in VMS:
            disk = house.vms / vm / "disk.raw"
            disk.touch()
            with disk.open("r+b") as file:
                for block in range(BLOCKS) if number == 0 else (number,):
                    file.seek(block * MIB)
                    file.write(random.randbytes(MIB))
        for point in house.run_job("all")["points"]:
            contents[point["sid"]] = (house.vms / point["vm"] / "disk.raw").read_bytes()
    held = next(iter(contents))
    house.holdfast("protect", held)
    house.holdfast("repository", "unseal", "new")
    report = house.holdfast("repository", "evacuate", "old")
    assert (report["kind"], report["result"]) == ("evacuate", "success")
    assert points(house, "old") == []
    assert house.holdfast("repository", "show", "old")["repository"]["sealed"]
    moved = points(house, "new")
    assert sorted(map(identity, moved)) == sorted(contents), "each once"
    assert [identity(point) for point in moved if point["held"]] == [held]
    assert all(point["verified"] for point in moved)
    for point in moved:
        to = house.out / f"{point['sid']}.raw"
        house.restore_disk(point["vm_name"], point["sid"], to)
        assert to.read_bytes() == contents[identity(point)]
    house.holdfast("repository", "gc", "old")
    assert house.holdfast("repository", "evacuate", "old")["result"] == "success", "nothing is left to do"
    again = house.run_job("all")
    assert {(disk["repository"], disk["mode"]) for disk in again["disks"]} == {("new", "digest")}, "on the copies"

    house.holdfast("repository", "unseal", "old")
    assert house.holdfast("repository", "evacuate", "new")["result"] == "success", "and back"
    assert sorted(map(identity, points(house, "old"))) == sorted([*contents, *(p["sid"] for p in again["points"])])
