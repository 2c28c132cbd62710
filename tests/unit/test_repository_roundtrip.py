"""Backups into a real repository and back: contents, points, sessions and what is refused."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import (
    AlreadyExists,
    FormatUnsupported,
    Locked,
    ObjectDamaged,
    ObjectMissing,
    PointNotFound,
    RepositoryExists,
    RepositoryFolderMissing,
    RepositoryNotFound,
    SessionFenced,
    SessionUnknown,
    UsageError,
)
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, Sid, new_sid
from holdfast_agent.model.points import Point, PointEntry
from holdfast_agent.repository import layout
from holdfast_agent.repository.configuration import Config
from holdfast_agent.repository.documents import DocumentType, decode_document, encode_document
from holdfast_agent.repository.outcomes import Outcome
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.writer import SessionWriter, store_blob
from holdfast_agent.sealing.records import RecordKind, open_record, seal_record
from holdfast_agent.sealing.roots import open_point, pack_set_digest, root_id, seal_point
from holdfast_agent.wire.specs import PackRef
from lab import repositories as lab

GEOMETRY = Geometry(10 * lab.BLOCK, lab.LOG2)
BLOCKS = {0: lab.block(0), 1: lab.block(1), 5: lab.block(5), 6: lab.block(1)}


def packs_of(folder: Path) -> list[Path]:
    return [path for path in lab.files(folder) if layout.PACKS in path.parts]


def test_what_was_stored_comes_back(repository: Repository, tmp_path: Path) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    assert lab.restore(repository, point) == BLOCKS
    again = lab.open_at(tmp_path)
    (entry,) = again.points()
    assert open_point(entry, lab.KEYS) == point
    assert lab.restore(again, entry) == BLOCKS
    assert not [path for path in lab.files(tmp_path) if path.parent.name in ("sessions", "tmp")]
    again.close()


def test_a_second_point_stores_the_change_only(repository: Repository, tmp_path: Path) -> None:
    first = lab.backup(repository, BLOCKS, GEOMETRY)
    before = sum(path.stat().st_size for path in packs_of(tmp_path))
    second = lab.backup(repository, {1: lab.block("new"), 5: lab.ZERO}, GEOMETRY, first)
    grown = sum(path.stat().st_size for path in packs_of(tmp_path)) - before
    assert lab.restore(repository, second) == {0: BLOCKS[0], 1: lab.block("new"), 6: BLOCKS[6]}
    assert lab.restore(repository, first) == BLOCKS
    assert grown < len(b"".join(lab.seal(lab.block("new")))) + 4096
    assert [p.sid for p in repository.points()] == sorted([first.sid, second.sid])


def test_nothing_new_stores_no_pack(repository: Repository, tmp_path: Path) -> None:
    first = lab.backup(repository, BLOCKS, GEOMETRY)
    before = packs_of(tmp_path)
    second = lab.backup(repository, BLOCKS, GEOMETRY)
    (blob,) = set(packs_of(tmp_path)) - set(before)  # the configuration of the VM is new
    assert second.packs == pack_set_digest([blob.name])
    assert second.disks[0].root == first.disks[0].root


def test_an_empty_disk_needs_nothing(repository: Repository) -> None:
    for size in (0, 3 * lab.BLOCK + 1):
        point = lab.backup(repository, {}, Geometry(size, lab.LOG2))
        assert root_id(point.disks[0].root) == HOLE
        assert lab.restore(repository, point) == {}


def test_many_small_packs(repository: Repository, tmp_path: Path) -> None:
    blocks = {number: lab.block(number) for number in range(300)}
    geometry = Geometry(300 * lab.BLOCK, lab.LOG2)
    point = lab.backup(repository, blocks, geometry, data_pack_bytes=4096, meta_pack_bytes=4096)
    assert len(packs_of(tmp_path)) > 30
    assert len(list((tmp_path / "repository" / "index").iterdir())) > 2
    assert lab.restore(repository, point) == blocks


def test_permissions_are_the_owners_alone(repository: Repository, tmp_path: Path) -> None:
    lab.backup(repository, BLOCKS, GEOMETRY)
    for path in (tmp_path / "repository", *(tmp_path / "repository").rglob("*"), *(tmp_path / "cache").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_directory_with_anything_in_it_is_not_taken(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    with pytest.raises(RepositoryExists):
        lab.create(tmp_path / "repository")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RepositoryExists):
        lab.create(tmp_path / "other")
    (tmp_path / "empty").mkdir(mode=0o755)
    lab.create(tmp_path / "empty")
    with pytest.raises(RepositoryFolderMissing, match="mkdir"):
        lab.create(tmp_path / "absent" / "repository")


@pytest.mark.parametrize("made", [False, True])
def test_an_unmounted_directory_is_no_repository(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "repository").mkdir()
    with pytest.raises(RepositoryNotFound):
        lab.open_at(tmp_path)


def test_key_slots_are_kept_and_never_replaced(repository: Repository) -> None:
    repository.key_slots.add("second", b'{"kdf": "argon2id"}')
    assert repository.key_slots.all()["second"] == b'{"kdf": "argon2id"}'
    assert set(repository.key_slots.all()) == {"first", "second"}
    with pytest.raises(AlreadyExists):
        repository.key_slots.add("second", b"")
    for name in ("", "../config/000002", "A", "a/b", "x" * 65):
        with pytest.raises(UsageError):
            repository.key_slots.add(name, b"")


def test_space_is_that_of_the_file_system(repository: Repository) -> None:
    total, free = repository.space()
    assert total >= free > 0


@pytest.mark.parametrize("feature", ["read_features", "write_features", "gc_features"])
def test_unknown_features_bar_what_they_say(tmp_path: Path, feature: str) -> None:
    lab.create(tmp_path / "repository")
    config = msgspec.structs.replace(Config(lab.REPOSITORY_ID, 1.0), **{feature: ("future",)})
    name = "config/000002"
    later = encode_document(name, DocumentType.CONFIG, msgspec.json.encode(config))
    (tmp_path / "repository" / name).write_bytes(later)
    if feature == "read_features":
        with pytest.raises(FormatUnsupported, match="future"):
            lab.open_at(tmp_path)
        return
    opened = lab.open_at(tmp_path)
    if feature == "write_features":
        with pytest.raises(FormatUnsupported, match="future"):
            opened.begin_session(new_sid())
    else:
        opened.begin_session(new_sid()).close()
    opened.close()


# --- sessions and outcomes ----------------------------------------------------------------------------------------


def test_a_commit_may_be_repeated_but_not_changed(repository: Repository) -> None:
    sid = new_sid()
    lock = repository.begin_session(sid)
    entry = seal_point(lab.point_of(sid, GEOMETRY, HOLE, []), lab.KEYS)
    for _ in range(3):
        repository.commit(entry, [])
    other = seal_point(msgspec.structs.replace(lab.point_of(sid, GEOMETRY, HOLE, []), job="other"), lab.KEYS)
    with pytest.raises(AlreadyExists):
        repository.commit(other, [])
    with pytest.raises(AlreadyExists):
        repository.begin_session(sid)
    assert repository.abort(sid) is Outcome.COMMITTED
    assert repository.point(sid) == entry
    lock.close()


def test_after_an_abort_there_is_no_commit(repository: Repository, tmp_path: Path) -> None:
    sid = new_sid()
    repository.begin_session(sid).close()
    assert repository.abort(sid) is Outcome.FENCED
    assert repository.abort(sid) is Outcome.FENCED
    with pytest.raises(SessionFenced):
        repository.commit(seal_point(lab.point_of(sid, GEOMETRY, HOLE, []), lab.KEYS), [])
    with pytest.raises(SessionFenced):
        repository.begin_session(sid)
    with pytest.raises(PointNotFound):
        repository.point(sid)
    assert repository.points() == []
    assert not list((tmp_path / "repository" / "sessions").iterdir())


def test_the_fenced_outcome_is_no_point(repository: Repository, tmp_path: Path) -> None:
    fenced, committed = new_sid(), new_sid()
    repository.begin_session(fenced).close()
    repository.abort(fenced)
    name = layout.point_object(fenced)
    data = (tmp_path / "repository" / name).read_bytes()
    assert decode_document(name, data)[0] is DocumentType.FENCED
    with pytest.raises(ObjectDamaged):
        decode_document(layout.point_object(committed), data)


def test_a_session_opens_once(repository: Repository) -> None:
    sid = new_sid()
    lock = repository.begin_session(sid)
    with pytest.raises(Locked):
        repository.begin_session(sid)
    lock.close()
    lock.close()


def test_nothing_is_written_or_committed_without_a_session(repository: Repository) -> None:
    sid = new_sid()
    with pytest.raises(SessionUnknown):
        SessionWriter(repository, sid, 1)
    with pytest.raises(SessionUnknown):
        repository.commit(seal_point(lab.point_of(sid, GEOMETRY, HOLE, []), lab.KEYS), [])


def test_recovery_fences_the_dead_and_spares_the_living(repository: Repository, tmp_path: Path) -> None:
    dead, living, done = new_sid(), new_sid(), new_sid()
    repository.begin_session(dead).close()
    lock = repository.begin_session(living)
    finished = repository.begin_session(done)
    repository.commit(seal_point(lab.point_of(done, GEOMETRY, HOLE, []), lab.KEYS), [])
    finished.close()
    (tmp_path / "repository" / "tmp" / "left").write_bytes(b"half a pack")
    recovery = repository.recover()
    assert recovery.fenced == (dead,)
    assert recovery.leftovers == 1
    assert repository.recover() == type(recovery)((), 0)
    with pytest.raises(SessionFenced):
        repository.commit(seal_point(lab.point_of(dead, GEOMETRY, HOLE, []), lab.KEYS), [])
    repository.commit(seal_point(lab.point_of(living, GEOMETRY, HOLE, []), lab.KEYS), [])
    assert {p.sid for p in repository.points()} == {living, done}
    lock.close()


def test_committing_and_fencing_at_once_leave_one_outcome(repository: Repository) -> None:
    for _ in range(20):
        sid = new_sid()
        lock = repository.begin_session(sid)
        entry = seal_point(lab.point_of(sid, GEOMETRY, HOLE, []), lab.KEYS)
        start = threading.Barrier(4)

        def commit(entry: PointEntry = entry, start: threading.Barrier = start) -> Outcome:
            start.wait()
            try:
                repository.commit(entry, [])
            except SessionFenced:
                return Outcome.FENCED
            return Outcome.COMMITTED

        def abort(sid: Sid = sid, start: threading.Barrier = start) -> Outcome:
            start.wait()
            return repository.abort(sid)

        with ThreadPoolExecutor(4) as pool:
            told = [future.result() for future in [pool.submit(work) for work in (commit, abort, commit, abort)]]
        assert len(set(told)) == 1
        assert (repository.committed(sid) == entry) == (told[0] is Outcome.COMMITTED)
        lock.close()


def test_a_commit_checks_everything_that_the_point_names(repository: Repository, tmp_path: Path) -> None:
    sid = new_sid()
    with SessionWriterOf(repository, sid) as writer:
        root = lab.write_tree(repository, writer, BLOCKS, GEOMETRY)
        packs = writer.publish()
    good = lab.point_of(sid, GEOMETRY, root, packs)

    def refused(error: type[Exception], point: Point = good, packs: list[PackRef] = packs) -> None:
        with pytest.raises(error):
            repository.commit(seal_point(point, lab.KEYS), packs)
        assert repository.points() == []

    refused(UsageError, packs=packs[:1])
    grown = [PackRef(packs[0].name, packs[0].size_bytes + 1), *packs[1:]]
    refused(ObjectDamaged, packs=grown)
    refused(
        ObjectMissing, msgspec.structs.replace(good, disks=(msgspec.structs.replace(good.disks[0], root="ab" * 32),))
    )
    refused(ObjectMissing, msgspec.structs.replace(good, config="ab" * 32))
    ghost = [PackRef(f"{sid}-9-d1", 100)]
    refused(ObjectMissing, lab.point_of(sid, GEOMETRY, root, ghost), ghost)
    hostile = [PackRef("../../etc/passwd", 100)]
    refused(ObjectDamaged, lab.point_of(sid, GEOMETRY, root, hostile), hostile)
    repository.commit(seal_point(good, lab.KEYS), packs)
    assert len(repository.points()) == 1


class SessionWriterOf:
    """A session with its writer, closed together."""

    def __init__(self, repository: Repository, sid: Sid | None = None) -> None:
        sid = sid or new_sid()
        self._lock = repository.begin_session(sid)
        self._writer = SessionWriter(repository, sid, 1)

    def __enter__(self) -> SessionWriter:
        return self._writer

    def __exit__(self, *failure: object) -> None:
        self._writer.close()
        self._lock.close()


def test_a_tombstone_hides_a_point(repository: Repository, tmp_path: Path) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    name = f"tombstones/{point.sid}-1"
    (tmp_path / "repository" / name).write_bytes(encode_document(name, DocumentType.TOMBSTONE, b"{}"))
    assert repository.points() == []
    with pytest.raises(PointNotFound):
        repository.point(point.sid)


# --- writer -------------------------------------------------------------------------------------------------------


def test_look_ups_know_own_records_holes_and_published_ones(repository: Repository) -> None:
    ids = [lab.block_id(lab.block("a")), HOLE, lab.block_id(lab.block("b"))]
    with SessionWriterOf(repository) as writer:
        assert writer.missing(ids) == [True, False, True]
        assert writer.append(*lab.seal(lab.block("a")))
        assert not writer.append(b"".join(lab.seal(lab.block("a"))))
        assert writer.missing(ids) == [False, False, True]
        with SessionWriterOf(repository) as other:
            assert other.missing(ids) == [True, False, True]
        writer.publish()
        assert writer.missing(ids) == [False, False, True]
        with SessionWriterOf(repository) as other:
            assert other.missing(ids) == [False, False, True]


def test_what_was_not_published_is_gone(repository: Repository, tmp_path: Path) -> None:
    with SessionWriterOf(repository) as writer:
        writer.append(*lab.seal(lab.block("a")))
    with SessionWriterOf(repository) as writer:
        assert writer.missing([lab.block_id(lab.block("a"))]) == [True]
    assert not list((tmp_path / "repository" / "tmp").iterdir())


def test_what_a_dead_mover_had_published_is_not_sent_again(repository: Repository) -> None:
    sid = new_sid()
    lock = repository.begin_session(sid)
    blocks = [lab.block(number) for number in range(20)]
    with SessionWriter(repository, sid, 1, data_pack_bytes=400) as writer:  # one record a pack
        for plain in blocks:
            writer.append(*lab.seal(plain))
    with SessionWriter(repository, sid, 2) as writer:
        missing = writer.missing([lab.block_id(plain) for plain in blocks])
    assert missing == [False] * 16 + [True] * 4
    lock.close()


def test_damaged_records_are_not_taken(repository: Repository) -> None:
    record = bytearray(b"".join(lab.seal(lab.block("a"))))
    with SessionWriterOf(repository) as writer:
        for position in (0, 20, 95, 96, len(record) - 1):
            damaged = bytearray(record)
            damaged[position] ^= 1
            with pytest.raises(ObjectDamaged):
                writer.append(bytes(damaged))
        with pytest.raises(ObjectDamaged):
            writer.append(bytes(record[:-1]))
        assert writer.publish() == []


def test_a_second_attempt_of_a_task_begins_with_fresh_names(repository: Repository, tmp_path: Path) -> None:
    sid = new_sid()
    lock = repository.begin_session(sid)
    names = set()
    for attempt in range(3):
        with SessionWriter(repository, sid, 1) as writer:
            writer.append(*lab.seal(lab.block(attempt)))
            names |= {pack.name for pack in writer.publish()}
    assert len(names) == len(packs_of(tmp_path)) == 3
    lock.close()


def test_publishing_again_adds_to_what_was_published(repository: Repository) -> None:
    with SessionWriterOf(repository) as writer:
        writer.append(*lab.seal(lab.block("a")))
        first = writer.publish()
        assert writer.publish() == first
        writer.append(*lab.seal(lab.block("b")))
        assert writer.publish()[:1] == first
        assert len(writer.publish()) == 2


def test_blobs_come_back_sealed(repository: Repository) -> None:
    keys = lab.KEYS.blob_keys()
    blob_id = keys.block_id(b"<domain/>")
    record = b"".join(seal_record(RecordKind.BLOB, b"<domain/>", blob_id, keys))
    sid = new_sid()
    lock = repository.begin_session(sid)
    assert len(store_blob(repository, sid, 7, record)) == 1
    assert store_blob(repository, sid, 8, record) == []
    assert open_record(repository.read_blob(blob_id), keys, blob_id) == b"<domain/>"
    with pytest.raises(ObjectMissing):
        repository.read_blob(lab.block_id(lab.block("absent")))
    with pytest.raises(FormatUnsupported):
        store_blob(repository, sid, 9, b"".join(lab.seal(lab.block("a"))))
    lock.close()
