"""Key epochs: new records under a new key, all old ones readable, ids and points the same throughout."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_agent.errors import UsageError, WrongKey
from holdfast_agent.model.points import Point
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.keys import MOST_EPOCHS, MasterKey, RepositoryKeys
from holdfast_agent.sealing.records import RecordKind, open_record, parse_header, seal_record
from lab import repositories as lab

MASTER = MasterKey(b"m" * 32)
FIRST, SECOND, THIRD = (RepositoryKeys.derive(MASTER, lab.REPOSITORY_ID, epoch) for epoch in (1, 2, 3))
PLAIN = lab.block("epochs")


def sealed(keys: RepositoryKeys) -> bytes:
    data_keys = keys.data_keys()
    return b"".join(seal_record(RecordKind.DATA, PLAIN, data_keys.block_id(PLAIN), data_keys))


def test_later_keys_open_all_earlier_records_and_never_the_other_way_round() -> None:
    for made, keys in enumerate((FIRST, SECOND, THIRD), start=1):
        record = sealed(keys)
        assert parse_header(record).epoch == made
        for held, other in enumerate((FIRST, SECOND, THIRD), start=1):
            if held >= made:
                assert open_record(record, other.opening_keys()) == PLAIN
            else:
                with pytest.raises(WrongKey, match="key epoch"):
                    open_record(record, other.opening_keys())


def test_who_only_seals_gets_the_present_key_alone() -> None:
    assert SECOND.data_keys().older == ()
    with pytest.raises(WrongKey):
        open_record(sealed(FIRST), SECOND.data_keys())
    assert FIRST.enc_key != SECOND.enc_key
    assert FIRST.enc_key.hex() not in repr(SECOND.opening_keys()) + repr(SECOND)


def test_ids_and_points_stay_the_same() -> None:
    assert FIRST.id_key == THIRD.id_key
    assert FIRST.root_key == THIRD.root_key
    assert FIRST.data_keys().block_id(PLAIN) == THIRD.opening_keys().block_id(PLAIN)


@pytest.mark.parametrize("epoch", [0, -1, MOST_EPOCHS + 1])
def test_epochs_out_of_bounds_are_refused(epoch: int) -> None:
    with pytest.raises(WrongKey):
        RepositoryKeys.derive(MASTER, lab.REPOSITORY_ID, epoch)


def test_a_repository_never_lowers_its_epoch(repository: Repository, tmp_path: Path) -> None:
    assert repository.epoch == 1
    for _ in range(2):
        repository.raise_epoch(2)
    assert {path.name for path in (tmp_path / "repository" / "config").iterdir()} == {"000001", "000002"}
    repository.raise_epoch(7)
    for epoch in (6, 0, MOST_EPOCHS + 1):
        with pytest.raises(UsageError):
            repository.raise_epoch(epoch)
    again = lab.open_at(tmp_path)
    assert again.epoch == 7
    again.close()


def test_level_2_reads_records_of_all_epochs(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = lab.Geometry(8 * lab.BLOCK, lab.LOG2)
    first: Point = lab.backup(repository, {0: lab.block(0), 1: lab.block(1)}, geometry)
    monkeypatch.setattr(lab, "KEYS", SECOND)
    monkeypatch.setattr(lab, "DATA_KEYS", SECOND.data_keys())
    lab.backup(repository, {1: lab.block("changed")}, geometry, first)
    assert verify(repository, 2, keys=SECOND).ok
    assert verify(repository, 2, keys=FIRST).findings, "the checker is broken"
