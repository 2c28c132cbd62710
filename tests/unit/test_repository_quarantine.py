"""Quarantine: what is bad stops matching look-ups, the next backup stores it again, and nothing is ever deleted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.errors import HoldfastError, ObjectDamaged, ObjectMissing, RepositoryFull
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId, new_sid
from holdfast_agent.repository.check_times import CheckTimes
from holdfast_agent.repository.pack_checks import choose_packs, in_parallel
from holdfast_agent.repository.quarantine import Quarantine, put_pack_aside, put_records_aside
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.store import FileStore
from holdfast_agent.repository.verify import VerifyReport, verify
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.records import HEADER_BYTES
from holdfast_agent.wire.messages import VerifyBudget
from lab import repositories as lab

GEOMETRY = Geometry(600 * lab.BLOCK, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in (0, 1, 300, 599)}


def pack_of(repository: Repository, plain: bytes) -> tuple[Path, int, int]:
    """(path, offset, length) of the only record of a block."""
    (home,) = repository.index.find([lab.block_id(plain)])[lab.block_id(plain)]
    (path,) = (repository.index.folder.parent.parent / "repository" / "packs").rglob(home.pack)
    return path, home.offset, home.length


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in lab.files(folder)}


def flip_record(repository: Repository, plain: bytes) -> None:
    path, offset, length = pack_of(repository, plain)
    lab.flip(path, offset + length - 5)


def flip_header(repository: Repository, plain: bytes) -> None:
    path, offset, _ = pack_of(repository, plain)
    lab.flip(path, offset + 30)


def cut_pack(repository: Repository, plain: bytes) -> None:
    path, offset, _ = pack_of(repository, plain)
    os.truncate(path, offset + HEADER_BYTES)


def lose_pack(repository: Repository, plain: bytes) -> None:
    pack_of(repository, plain)[0].unlink()


def flip_table(repository: Repository, plain: bytes) -> None:
    path, _, _ = pack_of(repository, plain)
    lab.flip(path, path.stat().st_size - 64 - 20)


def check(repository: Repository, level: int = 1) -> VerifyReport:
    return verify(repository, level, keys=lab.KEYS, put_aside=True)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("damage", [flip_record, flip_header, cut_pack, lose_pack])
def test_what_verification_finds_bad_the_next_backup_heals(
    repository: Repository, tmp_path: Path, damage: Callable[[Repository, bytes], None], level: int
) -> None:
    first = lab.backup(repository, BLOCKS, GEOMETRY)
    damage(repository, BLOCKS[300])
    before = files_of(tmp_path)

    found = check(repository, level)
    assert any(finding.lost and first.sid in finding.points for finding in found.findings), "the checker is broken"
    assert found.noted > 0
    assert before <= files_of(tmp_path), "a verification deletes nothing"
    again = check(repository, level)
    assert any(finding.lost for finding in again.findings), "what is lost stays a finding"
    assert again.noted == 0

    # An incremental backup in which nothing changed: the damaged block must be asked for although its id is the base's.
    second = lab.backup(
        repository, {300: BLOCKS[300]} | (BLOCKS if damage in (cut_pack, lose_pack) else {}), GEOMETRY, first
    )
    assert second.disks[0].root == first.disks[0].root
    for point in (first, second):
        assert lab.restore(repository, point) == BLOCKS
    healed = check(repository, 2)
    assert healed.ok
    assert healed.known > 0

    # Healed means that nothing is looked up twice any more, for records that were named one by one.
    sid = new_sid()
    lock = repository.begin_session(sid)
    with SessionWriter(repository, sid, 1) as writer:
        assert writer.shuns == (damage in (cut_pack, lose_pack))
    lock.close()


def test_only_the_bad_record_is_stored_again(repository: Repository, tmp_path: Path) -> None:
    first = lab.backup(repository, BLOCKS, GEOMETRY)
    flip_record(repository, BLOCKS[1])
    check(repository)
    sid = new_sid()
    lock = repository.begin_session(sid)
    with SessionWriter(repository, sid, 1) as writer:
        missing = writer.missing([lab.block_id(plain) for plain in BLOCKS.values()])
    lock.close()
    assert dict(zip(BLOCKS, missing, strict=True)) == {0: False, 1: True, 300: False, 599: False}
    with pytest.raises(HoldfastError):
        lab.restore(repository, first)


def test_a_pack_whose_table_is_damaged_costs_no_data_and_is_known_from_then_on(repository: Repository) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    flip_table(repository, BLOCKS[0])
    (finding,) = check(repository).findings
    assert finding.kind == "pack"
    assert not finding.lost
    assert lab.restore(repository, point) == BLOCKS
    report = check(repository)
    assert report.ok
    assert report.known == 1


@pytest.mark.parametrize("tables", [True, False])
def test_tables_of_contents_are_read_at_level_0_when_asked(repository: Repository, tables: bool) -> None:
    lab.backup(repository, BLOCKS, GEOMETRY)
    flip_table(repository, BLOCKS[0])
    assert verify(repository, 0, tables=tables).ok != tables


def test_a_restore_notes_what_it_cannot_read(repository: Repository) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    flip_record(repository, BLOCKS[599])
    with pytest.raises(HoldfastError):
        lab.restore(repository, point)
    quarantine = Quarantine.read(repository.store)
    assert list(quarantine.record_ids()) == [lab.block_id(BLOCKS[599])]
    report = verify(repository, 0)
    assert [(finding.lost, finding.points) for finding in report.findings] == [(True, (point.sid,))]


def test_a_pack_that_is_missing_is_not_noted_by_a_reader(repository: Repository) -> None:
    """Storage that is not mounted looks like that."""
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    lose_pack(repository, BLOCKS[0])
    with pytest.raises(ObjectMissing):
        lab.restore(repository, point)
    assert not Quarantine.read(repository.store)


def test_storage_that_lost_every_pack_puts_nothing_aside(repository: Repository, tmp_path: Path) -> None:
    lab.backup(repository, BLOCKS, GEOMETRY)
    for path in (tmp_path / "repository" / "packs").rglob("*-*"):
        path.unlink()
    report = check(repository)
    assert report.findings, "the checker is broken"
    assert not Quarantine.read(repository.store).packs


def test_a_repository_that_takes_no_notes_is_verified_all_the_same(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    flip_record(repository, BLOCKS[0])

    def full(self: FileStore, name: str, data: object) -> None:
        raise RepositoryFull(path="the repository")

    monkeypatch.setattr(FileStore, "create", full)
    findings = {finding.kind: finding for finding in check(repository).findings}
    assert findings["record"].points == (point.sid,)
    assert "no space" in findings["quarantine"].detail
    with pytest.raises(ObjectDamaged):  # a restore, too, tells of the damage and not of the note
        lab.restore(repository, point)
    assert not Quarantine.read(repository.store)


def test_of_two_homes_the_wrong_one_is_refused_and_noted(repository: Repository) -> None:
    lab.backup(repository, BLOCKS, GEOMETRY)
    wanted = lab.block_id(BLOCKS[0])
    sid = new_sid()
    lock = repository.begin_session(sid)
    with SessionWriter(repository, sid, 1) as writer:
        writer.append(*lab.seal(BLOCKS[0]))
        writer.publish()
    lock.close()
    reader = repository.reader()
    first, second = reader.read_other(wanted, 0), reader.read_other(wanted, 1)
    assert first != second, "two sealings of a block never have the same nonce"
    with pytest.raises(ObjectMissing):
        reader.read_other(wanted, 2)
    homes = repository.index.find([wanted])[wanted]
    quarantine = Quarantine.read(repository.store)
    assert all(quarantine.names(wanted, home.pack) for home in homes)


def test_notes_are_written_once_and_a_damaged_one_counts_for_its_pack(repository: Repository, tmp_path: Path) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    pack = pack_of(repository, BLOCKS[0])[0].name
    ids = [lab.block_id(BLOCKS[0]), lab.block_id(BLOCKS[1])]
    assert put_records_aside(repository.store, pack, ids, "why") == 1
    assert put_records_aside(repository.store, pack, reversed(ids), "another reason") == 0
    assert put_records_aside(repository.store, None, [BlockId(b"n" * 32)], "why") == 1
    quarantine = Quarantine.read(repository.store)
    assert quarantine.packs == frozenset()
    assert quarantine.holds(ids[0], pack)
    assert not quarantine.holds(lab.block_id(BLOCKS[300]), pack)
    (note,) = (tmp_path / "repository" / "quarantine").glob(f"{pack}.*")
    lab.flip(note, 30)
    assert Quarantine.read(repository.store).packs == {pack}
    assert put_pack_aside(repository.store, pack, "why") == 1
    assert put_pack_aside(repository.store, pack, "why") == 0
    assert lab.restore(repository, point) == BLOCKS, "quarantine never lowers what can be read"


def test_a_record_that_the_storage_cannot_read_is_bad_and_the_others_are_looked_at(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    path, offset, length = pack_of(repository, BLOCKS[1])
    real = os.pread

    def pread(fd: int, size: int, place: int) -> bytes:
        if (size, place) == (length, offset) and Path(f"/proc/self/fd/{fd}").readlink() == path:
            raise OSError(errno.EIO, "medium error")
        return real(fd, size, place)

    monkeypatch.setattr(os, "pread", pread)
    (finding,) = check(repository).findings
    assert (finding.kind, finding.lost, finding.points) == ("record", True, (point.sid,))
    assert isinstance(repository.store, FileStore)
    assert list(Quarantine.read(repository.store).record_ids()) == [lab.block_id(BLOCKS[1])]


# --- points that were asked for --------------------------------------------------------------------------------------


def test_a_damaged_point_that_was_asked_for_is_a_finding_and_so_is_one_that_is_not_there(
    repository: Repository, tmp_path: Path
) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    lab.flip(tmp_path / "repository" / "points" / point.sid, 60)
    nobody = new_sid()
    found = {finding.object: finding for finding in verify(repository, 0, [point.sid, nobody]).findings}
    assert found.keys() == {f"points/{point.sid}", f"points/{nobody}"}
    assert all(finding.lost for finding in found.values())


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_packs_that_were_found_whole_lately_are_not_read_again(repository: Repository) -> None:
    lab.backup(repository, BLOCKS, GEOMETRY)
    budget = VerifyBudget(older_than_s=3600)
    first = verify(repository, 1, budget=budget)
    assert (first.packs_checked, first.packs_left) == (3, 0)
    flip_record(repository, BLOCKS[0])
    second = verify(repository, 1, budget=budget)
    assert (second.packs_checked, second.packs_left) == (0, 3)
    assert verify(repository, 1).findings, "without a budget everything is read"
    third = verify(repository, 1, budget=VerifyBudget(older_than_s=0.0))
    assert third.packs_checked == 3


def test_a_pack_that_was_found_bad_stays_due(repository: Repository) -> None:
    lab.backup(repository, BLOCKS, GEOMETRY)
    flip_record(repository, BLOCKS[0])
    budget = VerifyBudget(older_than_s=3600)
    assert verify(repository, 1, budget=budget).packs_checked == 3
    again = verify(repository, 1, budget=budget)
    assert again.packs_checked == 1
    assert again.findings


def test_short_runs_go_round_the_whole_repository() -> None:
    names = [f"pack{number}" for number in range(10)]
    checked: dict[str, float] = {}
    for turn in range(5):
        for name in choose_packs(names, checked, VerifyBudget(), now=1000.0 + turn)[:2]:
            checked[name] = 1000.0 + turn
    assert checked.keys() == set(names)
    assert choose_packs(names, checked, VerifyBudget(), now=2000.0)[0] in ("pack0", "pack1")
    assert choose_packs(names, checked, VerifyBudget(older_than_s=996.5), now=2000.0) == sorted(names)[:8]


def test_a_sample_is_of_its_size_and_drawn_anew() -> None:
    names = [f"pack{number:03}" for number in range(200)]
    draws = [set(choose_packs(names, {}, VerifyBudget(sample_percent=5), 0.0)) for _ in range(20)]
    assert {len(draw) for draw in draws} == {10}
    assert len(set().union(*draws)) > 50
    assert len(choose_packs(names, {}, VerifyBudget(sample_percent=0.001), 0.0)) == 1


def test_reading_stops_when_the_time_is_over_and_hands_out_what_was_begun() -> None:
    names = [str(number) for number in range(1000)]
    assert 0 < len(list(in_parallel(names, str.upper, lambda: False, max_duration_s=1e-9))) + 1 < 1000
    assert [name for name, _ in in_parallel(names, str.upper, lambda: False)] == names
    assert list(in_parallel(names, str.upper, lambda: True)) == []

    def fail(name: str) -> str:
        raise ObjectMissing(name=name)

    assert [type(outcome) for _, outcome in in_parallel(["a"], fail, lambda: False)] == [ObjectMissing]


def test_an_odd_file_of_check_times_only_costs_another_reading(tmp_path: Path) -> None:
    times = CheckTimes(tmp_path)
    times.note(["a", "b"], 5.0)
    assert times.all() == {"a": 5.0, "b": 5.0}
    (tmp_path / "checks.sqlite").write_bytes(b"this is no database at all" * 100)
    assert times.all() == {}
    times.note(["c"], 6.0)
    assert times.all() == {"c": 6.0}
