"""`holdfast repository gc`: what nobody needs goes, what a restore point needs stays, and the user is told."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.model.ids import Sid
from holdfast_agent.repository.repository import Repository
from lab.contents import assert_same
from lab.installation import Installation, installed

MIB = 1 << 20


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path) as made:
        made.add_repository("main", encrypted=True)
        yield made


def _packs(house: Installation) -> dict[str, int]:
    found = (path for path in (house.store / "main" / "packs").rglob("*") if path.is_file())
    return {path.name: path.stat().st_size for path in found}


def test_garbage_goes_and_the_point_that_is_left_restores(house: Installation, tmp_path: Path) -> None:
    disk = house.vms / "vm" / "disk.raw"
    disk.parent.mkdir()
    rng = random.Random(7)
    disk.write_bytes(rng.randbytes(12 * MIB))
    house.add_job("job", repository="main", include="vm")
    house.run_job("job")
    disk.write_bytes(rng.randbytes(12 * MIB))
    house.run_job("job")
    newest, oldest = house.points("vm")
    repository = Repository.open(house.store / "main", tmp_path / "cache of the test")
    repository.tombstone(Sid(oldest["sid"]))
    repository.close()

    before = _packs(house)
    rehearsed = house.holdfast("repository", "gc", "main", "--dry-run")
    assert rehearsed["result"] == "success"
    assert _packs(house) == before, "a dry run removes nothing"
    report = house.holdfast("repository", "gc", "main")
    assert (report["kind"], report["result"]) == ("gc", "success")
    after = _packs(house)
    assert sum(before.values()) - sum(after.values()) > 11 * MIB
    assert after.keys() <= before.keys()
    house.holdfast("repository", "verify", "main", "--level", "2")
    restored = house.out / "disk.raw"
    house.restore_disk("vm", newest["sid"], restored)
    assert_same(restored.read_bytes(), disk.read_bytes())
    house.run_job("job")
