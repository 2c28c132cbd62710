"""The local index: a cache that heals itself, is shared by processes, and never leads the store."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import pytest

from holdfast_agent.errors import ObjectMissing, RepositoryIoError
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import new_sid
from holdfast_agent.repository.documents import DocumentType, encode_document
from holdfast_agent.repository.repository import Repository, create_repository
from holdfast_agent.repository.tree import TreeBuilder, TreeReader
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.keys import new_repository_id
from holdfast_agent.sealing.roots import root_id
from lab import repositories as lab

GEOMETRY = Geometry(8 * lab.BLOCK, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in range(8)}
Rows = set[tuple[bytes, str, int, int, int]]


def database(folder: Path) -> Path:
    (path,) = (folder / "cache" / lab.REPOSITORY_ID).glob("index-*.sqlite")
    return path


def rows(folder: Path) -> Rows:
    connection = sqlite3.connect(database(folder))
    found = connection.execute(
        "SELECT id, name, offset, length, kind FROM records JOIN packs ON pack = number"
    ).fetchall()
    connection.close()
    return set(found)


def test_rebuilding_from_segments_tables_or_headers_gives_the_incremental_index(
    repository: Repository, tmp_path: Path
) -> None:
    first = lab.backup(repository, BLOCKS, GEOMETRY, data_pack_bytes=1024)
    point = lab.backup(repository, {3: lab.block("new")}, GEOMETRY, first)
    grown = rows(tmp_path)
    assert repository.index.rebuild() == len(grown)
    assert rows(tmp_path) == grown
    for segment in (tmp_path / "repository" / "index").iterdir():
        lab.flip(segment, 50)
    assert repository.index.rebuild() == len(grown)
    assert rows(tmp_path) == grown
    for pack in (tmp_path / "repository" / "packs").rglob("*-*"):
        lab.flip(pack, pack.stat().st_size - 1)
    assert repository.index.rebuild() == len(grown)
    assert rows(tmp_path) == grown
    assert lab.restore(repository, point) == {**BLOCKS, 3: lab.block("new")}


def test_packs_of_a_writer_that_died_are_found_by_a_rebuild_only(repository: Repository, tmp_path: Path) -> None:
    sid = new_sid()
    lock = repository.begin_session(sid)
    with SessionWriter(repository, sid, 1) as writer:
        writer.append(*lab.seal(BLOCKS[0]))
        writer.publish()
    lock.close()
    (segment,) = (tmp_path / "repository" / "index").iterdir()
    segment.unlink()
    repository.index.update()
    assert rows(tmp_path) == set()
    assert repository.index.rebuild() == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "garbled", "foreign", "version", "gone", "tables", "middle"])
def test_an_odd_index_is_replaced(repository: Repository, tmp_path: Path, damage: str) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    good = rows(tmp_path)
    repository.close()
    path = database(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbled":
        path.write_bytes(b"no database " * 1000)
    elif damage == "middle":
        data = bytearray(path.read_bytes())
        data[5000:] = bytes(len(data) - 5000)
        path.write_bytes(data)
    elif damage == "gone":
        path.unlink()
    else:
        connection = sqlite3.connect(path)
        statement = {"foreign": "UPDATE meta SET repository_id = 'x'", "version": "PRAGMA user_version = 99",
                     "tables": "DROP TABLE records"}[damage]  # fmt: skip
        connection.execute(statement)
        connection.commit()
        connection.close()
    again = lab.open_at(tmp_path)
    assert lab.restore(again, point) == BLOCKS
    again.index.update()
    assert rows(tmp_path) == good
    again.close()


def test_an_index_that_is_cut_while_open_heals(repository: Repository, tmp_path: Path) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    path = database(tmp_path)
    with path.open("r+b") as opened:
        opened.write(b"\xff" * path.stat().st_size)
    assert lab.restore(repository, point) == BLOCKS
    lab.backup(repository, {0: lab.block("more")}, GEOMETRY)


def test_an_index_of_an_earlier_or_later_state_of_the_store_heals(repository: Repository, tmp_path: Path) -> None:
    first = lab.backup(repository, BLOCKS, GEOMETRY)
    old = database(tmp_path).read_bytes()
    shutil.copytree(tmp_path / "repository", tmp_path / "earlier")
    second = lab.backup(repository, {0: lab.block("more")}, GEOMETRY, first)
    repository.close()
    database(tmp_path).write_bytes(old)
    behind = lab.open_at(tmp_path)
    assert lab.restore(behind, second)[0] == lab.block("more")
    behind.close()
    shutil.rmtree(tmp_path / "repository")
    (tmp_path / "earlier").rename(tmp_path / "repository")
    ahead = lab.open_at(tmp_path)
    sid = new_sid()
    lock = ahead.begin_session(sid)
    with SessionWriter(ahead, sid, 1) as writer:
        assert writer.missing([lab.block_id(lab.block("more")), lab.block_id(BLOCKS[1])]) == [True, False]
    lock.close()
    assert lab.restore(ahead, first) == BLOCKS
    ahead.close()


def test_a_row_that_points_elsewhere_is_not_believed(repository: Repository, tmp_path: Path) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    connection = sqlite3.connect(database(tmp_path))
    connection.execute("UPDATE records SET offset = offset + 8")
    connection.commit()
    connection.close()
    assert lab.restore(repository, point) == BLOCKS


def test_repositories_do_not_share_an_index(repository: Repository, tmp_path: Path) -> None:
    lab.backup(repository, BLOCKS, GEOMETRY)
    create_repository(tmp_path / "other", new_repository_id(), {})
    other = Repository.open(tmp_path / "other", tmp_path / "cache")
    assert other.index.find([lab.block_id(BLOCKS[0])]) == {}
    other.close()


def test_a_cache_that_cannot_be_made_is_told(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryIoError, match="local index"):
        Repository.open(tmp_path / "repository", tmp_path / "file")


def test_two_processes_share_the_index(repository: Repository, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=lab.write_beside_others, args=(tmp_path, start, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(repository.points()) == 10
    for entry in repository.points():
        assert lab.restore(repository, entry)[7] == lab.block("shared")
    before = rows(tmp_path)
    assert repository.index.rebuild() == len(before)
    assert rows(tmp_path) == before


# --- packs that must not be referred to ---------------------------------------------------------------------------


def publish(folder: Path, name: str, document_type: DocumentType, body: bytes) -> None:
    (folder / "repository" / name).write_bytes(encode_document(name, document_type, body))


def pack_list(packs: list[str]) -> bytes:
    return f'{{"generation":1,"packs":["{chr(34) + "," + chr(34)}"]}}'.replace('","', '","'.join(packs)).encode()


def names_of_packs(folder: Path) -> list[str]:
    return [path.name for path in (folder / "repository" / "packs").rglob("*-*")]


@pytest.mark.parametrize("how", ["condemned", "swept", "quarantine", "lost", "done"])
def test_packs_to_shun_are_not_referred_to_not_even_by_inheritance(
    repository: Repository, tmp_path: Path, how: str
) -> None:
    point = lab.backup(repository, BLOCKS, GEOMETRY)
    packs = names_of_packs(tmp_path)
    if how == "quarantine":
        for pack in packs:
            publish(tmp_path, f"quarantine/{pack}", DocumentType.QUARANTINE, b"{}")
    elif how == "lost":
        for pack in (tmp_path / "repository" / "packs" / "d").rglob("*-*"):
            pack.unlink()
    else:
        publish(tmp_path, "gc/1.begin", DocumentType.GC_BEGIN, b"{}")
        publish(tmp_path, "gc/1.condemned", DocumentType.GC_CONDEMNED, pack_list(packs))
    if how == "swept":
        publish(tmp_path, "gc/1.sweep", DocumentType.GC_SWEEP, pack_list(packs))
    if how in ("swept", "done"):
        publish(tmp_path, "gc/1.done", DocumentType.GC_DONE, b"{}")
    sid = new_sid()
    lock = repository.begin_session(sid)
    base = TreeReader(repository.reader(), root_id(point.disks[0].root), GEOMETRY)
    with SessionWriter(repository, sid, 1) as writer, TreeBuilder(GEOMETRY, base) as builder:
        if how == "done":  # condemned, then kept: the finished generation swept nothing
            assert list(builder.unsafe_blocks(writer)) == []
            assert builder.finish(writer) == base.root
            assert writer.publish() == []
        else:
            assert writer.shuns
            assert list(builder.unsafe_blocks(writer)) == list(range(8))
            with pytest.raises(ObjectMissing, match="block 0"):
                builder.finish(writer)
            root = lab.write_tree(repository, writer, BLOCKS, GEOMETRY, base)
            assert root == base.root
            fresh = {pack.name for pack in writer.publish()}
            homes = repository.index.find([lab.block_id(plain) for plain in BLOCKS.values()] + [root])
            if how != "lost":
                assert all({home.pack for home in found} & fresh for found in homes.values())
    lock.close()
    if how == "lost":
        assert lab.restore(repository, point) == BLOCKS


def test_unknown_things_in_the_collectors_log_stop_a_writer(repository: Repository, tmp_path: Path) -> None:
    sid = new_sid()
    lock = repository.begin_session(sid)
    (tmp_path / "repository" / "gc" / "1.condemned").write_bytes(b"half a li")
    with pytest.raises(Exception, match=r"gc/1\.condemned"):
        SessionWriter(repository, sid, 1)
    (tmp_path / "repository" / "gc" / "1.condemned").rename(tmp_path / "repository" / "gc" / "1.future")
    with pytest.raises(Exception, match="other objects"):
        SessionWriter(repository, sid, 1)
    lock.close()
