"""Passphrases and paper keys through the commands: added, changed, removed, lost and found again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from holdfast_agent.sealing.keys import MasterKey
from holdfast_agent.sealing.paper import encode_paper
from holdfast_agent.sealing.records import parse_header
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.settings import ManagerSettings
from lab.contents import assert_same
from lab.installation import CommandFailed, Installation, installed


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """With the repository `main`, encrypted, and one restore point in it."""
    with installed(tmp_path_factory.mktemp("house")) as made:
        made.add_repository("main", encrypted=True)
        disk = made.vms / "vm" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(b"what is to come back" * 100_000)
        made.add_job("job", repository="main", include="vm")
        made.run_job("job")
        yield made


def secret_file(house: Installation, name: str, text: str) -> Path:
    file = house.home / name
    file.touch(0o600)
    file.write_text(f"{text}\n")
    return file


def slots(house: Installation) -> list[str]:
    return [slot["slot"] for slot in house.holdfast("key", "list", "main")["slots"]]


def unlock(house: Installation, *options: str | Path, expect: int = 0) -> Any:
    return house.holdfast("repository", "unlock", "main", *options, expect=expect)


def test_passphrases_are_added_changed_and_removed(house: Installation) -> None:
    first = house.home / "main.pass"
    deputy = secret_file(house, "deputy.pass", "the deputy's passphrase")
    new = secret_file(house, "new.pass", "a new passphrase")
    assert slots(house) == ["first"]
    house.holdfast("key", "add", "main", "--slot", "deputy", "--passphrase-file", deputy)
    unlock(house, "--passphrase-file", deputy)

    house.holdfast("key", "change", "main", "--passphrase-file", new, expect=2)  # which of the two?
    changed = house.holdfast("key", "change", "main", "first", "--passphrase-file", new)
    assert (changed["added"], changed["removed"]) == ("slot-2", "first")
    assert unlock(house, "--passphrase-file", first, expect=12)["error"]["code"] == "wrong_passphrase"
    unlock(house, "--passphrase-file", new)
    unlock(house, "--passphrase-file", deputy)

    house.holdfast("key", "remove", "main", "deputy")
    unlock(house, "--passphrase-file", deputy, expect=12)
    assert slots(house) == ["slot-2"]
    assert "last key slot" in house.holdfast("key", "remove", "main", "slot-2", expect=2)["error"]["message"]
    house.holdfast("key", "add", "main", "--slot", "deputy", "--passphrase-file", deputy, expect=2)  # used before


def epochs_stored(house: Installation) -> list[int]:
    """Key epochs of the records in the data packs, in no order."""
    found = []
    for pack in (house.store / "main" / "packs" / "d").rglob("*-d*"):
        data = pack.read_bytes()
        offset = 64
        while data[offset : offset + 4] == b"HFRC":
            header = parse_header(data[offset : offset + 96])
            found.append(header.epoch)
            offset += header.record_length
    return found


def test_after_a_rotation_new_blocks_have_a_new_key_and_all_are_readable(house: Installation) -> None:
    disk = house.vms / "vm" / "disk.raw"
    contents = [disk.read_bytes()]
    before = epochs_stored(house)
    assert set(before) == {1}
    assert house.holdfast("key", "rotate", "main")["epoch"] == 2
    contents.append(contents[0] + b"and more" * 200_000)
    disk.write_bytes(contents[1])
    house.run_job("job")
    assert sorted(set(epochs_stored(house))) == [1, 2]
    assert epochs_stored(house).count(1) == len(before), "what is stored is not sealed anew"

    points = house.points("vm")
    for point, content in zip(points, reversed(contents), strict=True):
        to = house.out / f"{point['sid']}.raw"
        house.restore_disk("vm", point["sid"], to)
        assert_same(to.read_bytes(), content)
    house.holdfast("repository", "verify", "main", "--level", "2")


def test_another_manager_learns_of_the_rotation(house: Installation) -> None:
    """As one whose catalogue is older: it asks the repository at the beginning of each session."""
    epoch = house.holdfast("key", "rotate", "main")["epoch"]
    assert epoch > 1
    with Catalog.open(ManagerSettings(data_dir=str(house.home / "manager"))) as catalog:
        with catalog.database.writing() as connection:
            connection.execute(text("UPDATE repositories SET epoch = 1 WHERE name = 'main'"))
        house.restore_disk("vm", "latest", house.out / "learnt.raw")
        assert catalog.repositories.epoch("main") == epoch
        catalog.repositories.raise_epoch("main", 1)
        assert catalog.repositories.epoch("main") == epoch


def test_the_paper_key_opens_what_nothing_else_opens(house: Installation) -> None:
    paper = house.holdfast("key", "paper", "main")
    letters = "\n".join(paper["lines"])
    file = secret_file(house, "paper.txt", letters)
    slip = secret_file(house, "slip.txt", letters[:-1] + ("A" if letters[-1] != "A" else "B"))
    other = secret_file(house, "other.txt", "\n".join(encode_paper(MasterKey.generate(), "ab" * 16)))
    forged = secret_file(house, "forged.txt", "\n".join(encode_paper(MasterKey.generate(), paper["repository_id"])))
    with Catalog.open(ManagerSettings(data_dir=str(house.home / "manager"))) as catalog:
        catalog.repositories.set_master_key("main", None)
        epoch = catalog.repositories.epoch("main")

    points = house.points("vm")
    point = points[0]
    with pytest.raises(CommandFailed):
        house.restore_disk("vm", point["sid"], house.out / "locked.raw")
    told = unlock(house, "--paper-file", slip, expect=12)["error"]
    assert told["code"] == "paper_key_wrong"
    assert "a character of line 4 is wrong" in told["message"]
    assert "another repository" in unlock(house, "--paper-file", other, expect=12)["error"]["message"]
    assert "no restore point" in unlock(house, "--paper-file", forged, expect=12)["error"]["message"]
    assert house.holdfast("key", "paper", "main", expect=12)["error"]["code"] == "wrong_key"

    unlock(house, "--paper-file", file)
    house.restore_disk("vm", point["sid"], house.out / "again.raw")
    assert_same((house.out / "again.raw").read_bytes(), (house.vms / "vm" / "disk.raw").read_bytes())
    house.holdfast("key", "add", "main", "--passphrase-file", secret_file(house, "n.pass", "after the paper"))

    place = ("--agent", "local", "--path", house.store / "main")
    house.holdfast("job", "remove", "job")
    house.holdfast("repository", "remove", "main")
    house.holdfast("repository", "add", "again", *place, "--paper-file", other, expect=12)
    assert house.holdfast("repository", "add", "again", *place, "--paper-file", file)["points"] == len(points)
    with Catalog.open(ManagerSettings(data_dir=str(house.home / "manager"))) as catalog:
        assert catalog.repositories.epoch("again") == epoch


def test_a_repository_without_encryption_has_no_keys(house: Installation) -> None:
    house.add_repository("plain", encrypted=False)
    for command in (("list", "plain"), ("paper", "plain")):
        assert "not encrypted" in house.holdfast("key", *command, expect=2)["error"]["message"]
