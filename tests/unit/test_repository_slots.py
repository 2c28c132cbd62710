"""Key slots in a repository: removed ones open nothing, names never recur, the last one stays."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import AlreadyExists, NotFound, UsageError, WrongPassphrase
from holdfast_agent.repository.configuration import Config, change_config, read_config, store_config
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.keys import MasterKey
from holdfast_agent.sealing.slots import LEAST_MEMORY_KIB, open_slots, slot_facts, slots_opened, wrap_master
from lab import repositories as lab

MASTER = MasterKey(b"m" * 32)


def wrapped(passphrase: str) -> bytes:
    return wrap_master(MASTER, passphrase, lab.REPOSITORY_ID, memory_kib=LEAST_MEMORY_KIB)


def test_a_changed_passphrase_opens_and_the_old_one_does_not(repository: Repository, tmp_path: Path) -> None:
    repository.key_slots.add("old", wrapped("old passphrase"))
    repository.key_slots.add("new", wrapped("new passphrase"))
    repository.key_slots.remove("first")
    assert slots_opened(repository.key_slots.all(), "old passphrase", lab.REPOSITORY_ID) == ["old"]
    repository.key_slots.remove("old")
    again = lab.open_at(tmp_path)
    assert again.key_slots.all().keys() == {"new"}
    assert open_slots(again.key_slots.all(), "new passphrase", lab.REPOSITORY_ID) == MASTER
    with pytest.raises(WrongPassphrase):
        open_slots(again.key_slots.all(), "old passphrase", lab.REPOSITORY_ID)
    assert slot_facts("new", again.key_slots.all()["new"]).memory_kib == LEAST_MEMORY_KIB
    assert {path.name for path in (tmp_path / "repository" / "keys").iterdir()} == {"new"}
    assert verify(again, 0).ok
    again.close()


def test_the_last_slot_stays_and_names_never_recur(repository: Repository) -> None:
    with pytest.raises(UsageError, match="last key slot"):
        repository.key_slots.remove("first")
    repository.key_slots.add("second", b"{}")
    repository.key_slots.remove("first")
    for name in ("first", "second"):
        with pytest.raises(AlreadyExists):
            repository.key_slots.add(name, b"{}")
    for name in ("first", "never", "../points/x"):
        with pytest.raises(NotFound):
            repository.key_slots.remove(name)
    with pytest.raises(UsageError):
        repository.key_slots.remove("second")


def test_a_damaged_slot_does_not_count_as_the_last(repository: Repository, tmp_path: Path) -> None:
    repository.key_slots.add("second", b"{}")
    lab.flip(tmp_path / "repository" / "keys" / "second", 30)
    with pytest.raises(UsageError, match="last key slot"):
        repository.key_slots.remove("first")
    repository.key_slots.remove("second")


def test_bytes_of_a_removed_slot_that_are_still_there_open_nothing(repository: Repository, tmp_path: Path) -> None:
    """The remover was killed between its decision and the deletion, or the storage keeps everything."""
    file = tmp_path / "repository" / "keys" / "first"
    kept = file.read_bytes()
    repository.key_slots.add("second", b"{}")
    repository.key_slots.remove("first")
    file.write_bytes(kept)
    assert repository.key_slots.all().keys() == {"second"}
    assert lab.open_at(tmp_path).recover().fenced == ()


def test_of_two_changes_at_once_the_later_sees_the_earlier(repository: Repository) -> None:
    seen: list[tuple[str, ...]] = []

    def change(config: Config) -> Config:
        seen.append(config.removed_slots)
        if len(seen) == 1:  # another host is quicker
            store_config(repository.store, msgspec.structs.replace(config, removed_slots=("theirs",)), 2)
        return msgspec.structs.replace(config, removed_slots=(*config.removed_slots, "ours"))

    assert change_config(repository.store, change).removed_slots == ("theirs", "ours")
    assert seen == [(), ("theirs",)]
    assert read_config(repository.store).removed_slots == ("theirs", "ours")


def test_a_damaged_configuration_is_a_finding(repository: Repository, tmp_path: Path) -> None:
    repository.key_slots.add("second", b"{}")
    repository.key_slots.remove("first")
    lab.flip(tmp_path / "repository" / "config" / "000001", 30)
    assert [finding.kind for finding in verify(repository, 0).findings] == ["configuration"]
