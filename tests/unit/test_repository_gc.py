"""The collector on small real repositories: what goes, what stays, and what it refuses to believe."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast_agent.errors import Cancelled, CollectionRefused, FormatUnsupported, RepositoryError
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.repository import configuration, layout
from holdfast_agent.repository.collector_log import packs_to_avoid, read_generations
from holdfast_agent.repository.documents import DocumentType, encode_document, read_document
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.gc.generations import current
from holdfast_agent.repository.gc.runs import SortedRuns
from holdfast_agent.repository.outcomes import Outcome
from holdfast_agent.repository.pins import pinned
from holdfast_agent.repository.quarantine import put_records_aside
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.store import FileStore
from holdfast_agent.repository.verify import verify
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.roots import seal_point
from lab import repositories as lab
from lab.collecting import GEOMETRY, Ground, check_points
from lab.contents import assert_same
from lab.faults import FaultySystem


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture
def repository(ground: Ground) -> Iterator[Repository]:
    opened = lab.open_at(ground.folder)
    yield opened
    opened.close()


def packs_of(repository: Repository) -> set[str]:
    return {name.rpartition("/")[2] for name in repository.store.names(layout.PACKS)}


# --- what goes and what stays -------------------------------------------------------------------------------------


def test_dead_packs_go_sparse_ones_are_copied_and_points_stay(ground: Ground, repository: Repository) -> None:
    for _ in range(3):
        ground.litter()
    before = packs_of(repository)
    found = collect(repository)
    assert found.swept_packs > 0
    assert found.moved_bytes > 0
    assert found.freed_bytes > 0
    assert len(packs_of(repository)) < len(before) - 4
    assert packs_of(repository) - before, "live records were copied to a new pack"
    ground.check()
    report = verify(repository, 2, keys=lab.KEYS)
    assert report.ok, report.findings
    rows = {name for name, _, _ in repository.index.packs()}
    assert rows == packs_of(repository), "no row leads the store"
    assert not list(repository.store.names(layout.SESSIONS))


def test_a_fresh_index_tells_the_same(ground: Ground, repository: Repository) -> None:
    ground.litter()
    collect(repository)
    known = {place[0] for place in repository.index.packs()}
    repository.index.rebuild()
    assert {place[0] for place in repository.index.packs()} == known
    ground.check()


def test_a_dry_run_changes_nothing(ground: Ground, repository: Repository) -> None:
    ground.litter()
    before = {path: path.read_bytes() for path in lab.files(ground.folder)}
    rehearsed = collect(repository, dry_run=True)
    assert_same({path: path.read_bytes() for path in lab.files(ground.folder)}, before)
    done = collect(repository)
    assert (rehearsed.swept_packs, rehearsed.moved_bytes) == (done.swept_packs, done.moved_bytes)


def test_packs_of_a_session_at_work_stay_and_its_point_is_whole(ground: Ground, repository: Repository) -> None:
    ground.litter()
    sid = new_sid()
    lock = repository.begin_session(sid)
    with SessionWriter(repository, sid, 1) as writer:
        plain = lab.block("written beside the collector")
        writer.append(*lab.seal(plain))
        (pack,) = writer.publish()
    collected = threading.Thread(target=collect, args=(repository,))
    collected.start()
    while not any("condemned" in stages for stages in read_generations(repository.store).values()):
        collected.join(0.01)
    assert collected.is_alive(), "it did not wait for the session"
    lock.close()  # the writer dies
    collected.join(30)
    assert not collected.is_alive()
    assert repository.abort(sid) is Outcome.FENCED
    assert pack.name in packs_of(repository), "it was not condemned while its session was at work"
    collect(repository)
    assert pack.name not in packs_of(repository), "nobody refers to it: the next generation takes it"
    ground.check()


def test_a_writer_avoids_what_is_condemned(ground: Ground, repository: Repository) -> None:
    """Content that was pruned comes back while its packs are condemned: it is stored anew and survives the sweep."""
    ground.litter()
    old = {number: lab.block((0, number)) for number in range(6)}
    waiting = repository.begin_session(blocker := new_sid())
    collected = threading.Thread(target=collect, args=(repository,))
    collected.start()
    while not any("condemned" in stages for stages in read_generations(repository.store).values()):
        collected.join(0.01)
    point = lab.backup(repository, old, GEOMETRY)
    repository.abort(blocker)
    waiting.close()
    collected.join(30)
    assert not collected.is_alive()
    ground.expected[point.sid] = old
    ground.check()


def test_what_a_session_referred_to_before_it_was_condemned_stays(ground: Ground, repository: Repository) -> None:
    """The session knows nothing of the list that is published after it began: the drain and the second marking do."""
    ground.litter()
    old = {number: lab.block((0, number)) for number in range(6)}
    homes = repository.index.find(lab.block_id(plain) for plain in old.values())
    sid = new_sid()
    lock = repository.begin_session(sid)
    with SessionWriter(repository, sid, 1) as writer:
        collected = threading.Thread(target=collect, args=(repository,))
        collected.start()
        while not any("condemned" in stages for stages in read_generations(repository.store).values()):
            collected.join(0.01)
        condemned = packs_to_avoid(repository.store)
        assert {home.pack for found in homes.values() for home in found} <= condemned
        root = lab.write_tree(repository, writer, old, GEOMETRY)
        packs = writer.publish()
        assert not [pack for pack in packs if "-d" in pack.name], "it refers to what was there"
        point = lab.point_of(sid, GEOMETRY, root, packs)
        repository.commit(seal_point(point, lab.KEYS), packs)
    lock.close()
    collected.join(30)
    assert not collected.is_alive()
    ground.expected[sid] = old
    ground.check()
    assert condemned - packs_of(repository), "the others were swept"


def test_a_collector_waits_for_a_reader(ground: Ground, repository: Repository) -> None:
    ground.litter()
    ((sid, blocks),) = ground.expected.items()
    with pinned(repository) as leaving:
        assert leaving == frozenset()
        repository.tombstone(sid)
        collected = threading.Thread(target=collect, args=(repository,))
        collected.start()
        while not any("condemned" in stages for stages in read_generations(repository.store).values()):
            collected.join(0.01)
        with pinned(repository) as later:
            assert later == packs_to_avoid(repository.store) != frozenset()
        point = repository.committed(sid)
        assert point is not None
        assert lab.restore(repository, point) == blocks
        assert collected.is_alive()
    collected.join(30)
    assert not collected.is_alive()
    assert not packs_of(repository), "nothing is left that anybody needs"


def test_a_full_disk_is_read_without_a_pin(ground: Ground) -> None:
    ground.litter()
    full = lab.open_at(ground.folder, FaultySystem(1, raising(errno.ENOSPC)))
    with pinned(full) as leaving:
        assert leaving == frozenset()
    assert not list(full.store.names(layout.SESSIONS))
    full.close()


def raising(number: int) -> Callable[[str], None]:
    def fault(kind: str) -> None:
        raise OSError(number, os.strerror(number))

    return fault


def test_unknown_records_keep_their_pack(
    ground: Ground, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.litter()
    monkeypatch.setattr("holdfast_agent.repository.gc.census._CODECS", frozenset({0}))  # LZ4 is from the future
    before = packs_of(repository)
    collect(repository)
    assert {name for name in before if "-d" in name} <= packs_of(repository)
    ground.check()


def test_a_damaged_pack_stays(ground: Ground, repository: Repository) -> None:
    """What a pack without table and segment holds cannot be told; it may be the last that is left of something."""
    ground.litter()
    (victim,) = [name for name in packs_of(repository) if "-d" in name][:1]
    path = ground.folder / "repository" / layout.pack_object(victim)
    lab.flip(path, path.stat().st_size - 10)
    for segment in (ground.folder / "repository" / "index").iterdir():
        segment.unlink()
    shutil.rmtree(ground.folder / "cache")
    fresh = lab.open_at(ground.folder)
    collect(fresh)
    assert victim in packs_of(fresh)
    fresh.close()


def test_the_last_home_stays_even_in_quarantine(ground: Ground, repository: Repository) -> None:
    ground.litter()
    ((_, blocks),) = ground.expected.items()
    ids = [lab.block_id(plain) for plain in blocks.values()]
    for record, found in repository.index.find(ids).items():
        put_records_aside(repository.store, found[0].pack, [record], "a test")
    collect(repository)
    ground.check()


def test_copies_in_two_packs_leave_one(ground: Ground, repository: Repository) -> None:
    """Two writers that store the same blocks at the same time: one copy is enough."""
    blocks = {number: lab.block(("twice", number)) for number in range(10)}
    sids = [new_sid(), new_sid()]
    locks = [repository.begin_session(sid) for sid in sids]
    for sid in sids:
        with SessionWriter(repository, sid, 1) as writer:
            for plain in blocks.values():
                assert writer.missing([lab.block_id(plain)]) == [sid == sids[0]] or sid == sids[1]
                writer.append(*lab.seal(plain))
            writer.publish()
    for sid, lock in zip(sids, locks, strict=True):
        repository.abort(sid)
        lock.close()
    point = lab.backup(repository, blocks, GEOMETRY)
    collect(repository)
    ground.expected[point.sid] = blocks
    ground.check()
    homes = repository.index.find(lab.block_id(plain) for plain in blocks.values())
    assert {len(found) for found in homes.values()} == {1}


def test_a_point_within_its_window_for_undoing_stays(ground: Ground, repository: Repository) -> None:
    ground.litter()
    ((sid, blocks),) = ground.expected.items()
    repository.tombstone(sid, window_s=3600)
    collect(repository)
    assert repository.undo_tombstone(sid)
    check_points(repository, {sid: blocks})


# --- two collectors, and one that is stopped ----------------------------------------------------------------------


def test_a_collection_that_is_stopped_anywhere_is_taken_up(ground: Ground) -> None:
    """Stopped at its first, eighth, fifteenth … look at the event; another one goes on."""
    looks = 1
    while True:
        ground.litter()
        stop = StopsAt(looks)
        repository = lab.open_at(ground.folder)
        try:
            collect(repository, stop=stop)
        except Cancelled:
            ground.check()
            repository.close()
            looks += 7
            continue
        repository.close()
        break
    assert looks > 20
    ground.check()


class StopsAt(threading.Event):
    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


def test_collectors_at_once_agree(ground: Ground) -> None:
    for _ in range(3):
        ground.litter()
        failures: list[RepositoryError] = []

        def work(failures: list[RepositoryError] = failures) -> None:
            mine = lab.open_at(ground.folder)
            try:
                collect(mine)
            except RepositoryError as error:
                failures.append(error)
            finally:
                mine.close()

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        ground.check()


def test_the_loser_adopts_the_published_lists(repository: Repository) -> None:
    mine, theirs = current(repository.store), current(repository.store)
    name = f"{new_sid()}-1-d1"
    theirs.begin(())
    mine.begin(())
    assert theirs.condemn([name]) == (name,)
    assert mine.condemn([]) == (name,)
    assert mine.publish_sweep([]) == ()
    assert theirs.publish_sweep([name]) == ()
    assert packs_to_avoid(repository.store) == {name}
    mine.done()
    assert packs_to_avoid(repository.store) == frozenset()
    assert current(repository.store).number == 2


def test_the_log_is_written_as_the_format_says(repository: Repository) -> None:
    sid, pack = Sid("ab" * 16), f"{'cd' * 16}-1-d1"
    generation = current(repository.store)
    generation.begin((sid,))
    generation.condemn([pack])
    generation.publish_sweep([])
    generation.done()

    def body(stage: str, document_type: DocumentType) -> dict[str, object]:
        found = json.loads(read_document(repository.store, f"gc/1.{stage}", document_type))
        assert isinstance(found, dict)
        return found

    begin = body("begin", DocumentType.GC_BEGIN)
    assert begin.pop("started")
    assert begin.pop("digest") == "4e55b2332331b3d0cf07cd542c995d0b0836a3cae98b746e19db7e9ce851ac24"
    assert begin == {"generation": 1, "roots": [sid], "count": 1}
    assert body("condemned", DocumentType.GC_CONDEMNED) == {"generation": 1, "packs": [pack]}
    assert body("sweep", DocumentType.GC_SWEEP) == {"generation": 1, "packs": []}
    assert body("done", DocumentType.GC_DONE).keys() == {"generation", "done"}


def test_the_log_does_not_grow_upon_writers(ground: Ground, repository: Repository) -> None:
    for _ in range(4):
        ground.litter()
        collect(repository)
    stages = read_generations(repository.store)
    assert [number for number, found in stages.items() if "begin" in found] == [4]
    assert all({"condemned", "sweep", "done"} <= found for found in stages.values()), "their names stay taken"
    last = set(packs_to_avoid(repository.store))
    assert last
    assert not last & packs_of(repository)
    (ground.folder / "repository" / "gc" / "1.sweep").write_bytes(b"nobody reads it")
    assert set(packs_to_avoid(repository.store)) == last


# --- what it refuses to believe -----------------------------------------------------------------------------------


def test_it_refuses_when_a_root_has_vanished(ground: Ground, repository: Repository) -> None:
    ground.litter()
    collect(repository)
    ground.litter()
    for point in (ground.folder / "repository" / "points").iterdir():
        if point.name not in ground.expected:
            point.unlink()
    before = packs_of(repository)
    with pytest.raises(CollectionRefused, match=r"vanished|outcome"):
        collect(repository)
    assert packs_of(repository) == before


def test_it_refuses_without_the_outcome_of_a_pack(ground: Ground, repository: Repository) -> None:
    """The very first generation knows no earlier roots, but every pack names its session."""
    ground.litter()
    (sid,) = ground.expected
    (ground.folder / "repository" / "points" / sid).unlink()
    with pytest.raises(CollectionRefused, match="outcome of its session"):
        collect(repository)


@pytest.mark.parametrize("place", ["points", "packs", "index", "sessions", "tombstones", "gc", "quarantine"])
def test_it_refuses_when_a_part_is_not_mounted(ground: Ground, repository: Repository, place: str) -> None:
    ground.litter()
    (ground.folder / "repository" / place).rename(ground.folder / "away")
    with pytest.raises(RepositoryError):
        collect(repository)
    (ground.folder / "away").rename(ground.folder / "repository" / place)
    collect(repository)
    ground.check()


@pytest.mark.parametrize("place", ["points", "packs"])
def test_it_refuses_when_a_part_looks_empty(ground: Ground, repository: Repository, place: str) -> None:
    ground.litter()
    folder = ground.folder / "repository" / place
    folder.rename(ground.folder / "away")
    shutil.copytree(
        ground.folder / "away", folder, ignore=lambda _, names: [n for n in names if "-" in n or len(n) > 9]
    )
    with pytest.raises(CollectionRefused):
        collect(repository)
    shutil.rmtree(folder)
    (ground.folder / "away").rename(folder)
    collect(repository)
    ground.check()


def test_it_refuses_when_a_listing_fails(
    ground: Ground, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.litter()
    listing = os.scandir

    def fails(path: str) -> object:
        if str(path).endswith("packs/d/7f"):
            raise OSError(errno.EIO, "a bad sector")
        return listing(path)

    before = packs_of(repository)
    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(RepositoryError, match="a bad sector"):
        collect(repository)
    monkeypatch.undo()
    assert packs_of(repository) == before


def test_it_refuses_when_a_node_is_lost(ground: Ground, repository: Repository) -> None:
    ground.litter()
    for path in (ground.folder / "repository" / "packs" / "m").rglob("*-*"):
        path.unlink()
    with pytest.raises(CollectionRefused, match="cannot be read"):
        collect(repository)


def test_it_goes_on_when_a_block_is_lost_and_says_so(ground: Ground, repository: Repository) -> None:
    ground.litter()
    (blocks,) = ground.expected.values()
    home = repository.index.find([lab.block_id(blocks[0])])[lab.block_id(blocks[0])][0]
    (ground.folder / "repository" / layout.pack_object(home.pack)).unlink()
    shutil.rmtree(ground.folder / "cache")
    fresh = lab.open_at(ground.folder)
    for segment in list(fresh.store.names(layout.INDEX)):
        fresh.store.remove(segment)
    found = collect(fresh)
    assert found.lost_records > 0
    fresh.close()


@pytest.mark.parametrize("which", ["gc_features", "write_features"])
def test_it_refuses_features_that_it_does_not_know(ground: Ground, which: str) -> None:
    store = FileStore(ground.folder / "repository")
    config = configuration.Config(lab.REPOSITORY_ID, 1.0, **{which: ("later",)})
    name = "config/000002"
    store.create(name, [encode_document(name, DocumentType.CONFIG, configuration.msgspec.json.encode(config))])
    repository = lab.open_at(ground.folder)
    with pytest.raises(FormatUnsupported, match="later"):
        collect(repository)
    repository.close()


# --- parts --------------------------------------------------------------------------------------------------------


def test_segments_are_put_together(ground: Ground, repository: Repository) -> None:
    for _ in range(5):
        ground.litter()
    assert len(list(repository.store.names(layout.INDEX))) >= 16
    collect(repository)
    assert len(list(repository.store.names(layout.INDEX))) < 5
    named = {name for name, _, _ in repository.index.packs()}
    other = lab.open_at(ground.folder)
    assert {name for name, _, _ in other.index.packs()} == named
    other.close()
    shutil.rmtree(ground.folder / "cache")
    ground.check()


def test_a_damaged_base_segment_costs_nothing_but_time(ground: Ground, repository: Repository) -> None:
    for turn in range(9):
        blocks = {number: lab.block((turn, number)) for number in range(3)}
        ground.expected[lab.backup(repository, blocks, GEOMETRY).sid] = blocks
    collect(repository)
    (base,) = (ground.folder / "repository" / "index").glob("base-*")
    lab.flip(base, 100)
    shutil.rmtree(ground.folder / "cache")
    ground.check()


def test_the_reserve_is_there_and_given_up_for_space(ground: Ground, repository: Repository) -> None:
    reserve = ground.folder / "repository" / layout.RESERVE
    assert reserve.stat().st_blocks > 0
    repository.store.release_reserve()
    assert not reserve.exists()
    repository.recover()
    assert reserve.stat().st_blocks * 512 >= reserve.stat().st_size > 0


@pytest.mark.parametrize("kept", [3, 1000])
def test_sorted_runs_sort_and_know_each_record_once(tmp_path: Path, kept: int) -> None:
    rng = random.Random(5)
    records = [struct.pack(">Q", rng.randrange(500)) for _ in range(900)]
    with SortedRuns(8, tmp_path, kept) as runs:
        for part in range(0, 900, 90):
            runs.add(records[part : part + 90])
        for _ in range(2):
            found = list(runs)
            assert found == sorted(set(records))
            assert all(a < b for a, b in pairwise(found))
    assert not list(tmp_path.iterdir())


def test_progress_names_phases_and_never_goes_back(ground: Ground, repository: Repository) -> None:
    ground.litter()
    told: list[tuple[str, int, int]] = []
    note: Callable[[str, int, int], None] = lambda phase, done, total: told.append((phase, done, total))  # noqa: E731
    collect(repository, progress=note)
    assert {phase for phase, _, _ in told} >= {"marking", "compacting", "sweeping"}
    assert all(done <= total for phase, done, total in told if phase in ("compacting", "sweeping"))
