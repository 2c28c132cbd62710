"""Passphrases and paper keys through the commands: added, changed, removed, lost and found again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_agent.sealing.keys import MasterKey
from holdfast_agent.sealing.paper import encode_paper
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.settings import ManagerSettings
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


def test_the_paper_key_opens_what_nothing_else_opens(house: Installation) -> None:
    paper = house.holdfast("key", "paper", "main")
    text = "\n".join(paper["lines"])
    file = secret_file(house, "paper.txt", text)
    slip = secret_file(house, "slip.txt", text[:-1] + ("A" if text[-1] != "A" else "B"))
    other = secret_file(house, "other.txt", "\n".join(encode_paper(MasterKey.generate(), "ab" * 16)))
    forged = secret_file(house, "forged.txt", "\n".join(encode_paper(MasterKey.generate(), paper["repository_id"])))
    with Catalog.open(ManagerSettings(data_dir=str(house.home / "manager"))) as catalog:
        catalog.repositories.set_master_key("main", None)

    (point,) = house.points("vm")
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
    assert (house.out / "again.raw").read_bytes() == (house.vms / "vm" / "disk.raw").read_bytes()
    house.holdfast("key", "add", "main", "--passphrase-file", secret_file(house, "n.pass", "after the paper"))

    place = ("--agent", "local", "--path", house.store / "main")
    house.holdfast("job", "remove", "job")
    house.holdfast("repository", "remove", "main")
    house.holdfast("repository", "add", "again", *place, "--paper-file", other, expect=12)
    assert house.holdfast("repository", "add", "again", *place, "--paper-file", file)["points"] == 1


def test_a_repository_without_encryption_has_no_keys(house: Installation) -> None:
    house.add_repository("plain", encrypted=False)
    for command in (("list", "plain"), ("paper", "plain")):
        assert "not encrypted" in house.holdfast("key", *command, expect=2)["error"]["message"]
