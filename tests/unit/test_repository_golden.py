"""Repositories of every format that ever was are read, verified, restored and collected by whoever comes later."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import PointHeld, PointRetained, RepositoryClaimed, UndoWindowOver, WrongPassphrase
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.points import Point
from holdfast_agent.repository import layout
from holdfast_agent.repository.collector_log import packs_to_avoid
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.outcomes import Outcome
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.tree import TreeBuilder, TreeReader
from holdfast_agent.repository.verify import verify
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.keys import PUBLIC, RepositoryKeys
from holdfast_agent.sealing.paper import decode_paper
from holdfast_agent.sealing.roots import open_point, pack_set_digest, root_id, seal_point
from holdfast_agent.sealing.slots import open_slots, slots_opened
from lab import golden
from lab.contents import assert_same
from lab.golden import Golden, GoldenPoint

LOSSES = ("as it is", "without segments")


class Found:
    """A golden repository unpacked into ``folder``."""

    def __init__(self, folder: Path, name: str, loss: str) -> None:
        golden.unpack(name, folder)
        self.folder = folder
        self.path = folder / "repository"
        self.expected: Golden = golden.load(name)
        self.whole = loss == LOSSES[0]
        if not self.whole:
            for segment in (self.path / layout.INDEX).iterdir():
                segment.unlink()
        self.repository = self.open()
        self.master = decode_paper("\n".join(self.expected.paper))[0] if self.expected.paper else PUBLIC
        self.keys = RepositoryKeys.derive(self.master, self.expected.repository_id, self.repository.epoch)

    def open(self, host: RepositoryHost | None = None) -> Repository:
        return Repository.open(self.path, self.folder / "cache", clock=lambda: golden.NOW, host=host)

    def condemned(self) -> frozenset[str]:
        """Packs that a verification leaves alone: a collector may remove them at any moment."""
        return packs_to_avoid(self.repository.store) & self.packs()

    def packs(self) -> frozenset[str]:
        return frozenset(name.rpartition("/")[2] for name in self.repository.store.names(layout.PACKS))

    def back_up_on(self, base: Point) -> Point:
        """A new point with nothing changed; what may not be inherited is stored again, sealed as it was."""
        reader = self.repository.reader()
        lock = self.repository.begin_session(sid := new_sid())
        with SessionWriter(self.repository, sid, 1) as writer:
            for disk in base.disks:
                tree = TreeReader(reader, root_id(disk.root), disk.geometry)
                with TreeBuilder(disk.geometry, tree) as builder:
                    for number in builder.unsafe_blocks(writer):
                        writer.append(reader.read_record(next(tree.ids(number))))
                    assert builder.finish(writer).hex() == disk.root
            blob = reader.read_record(root_id(base.config or ""))
            if writer.missing([root_id(base.config or "")])[0]:
                writer.append(blob)
            packs = writer.publish()
        digest = pack_set_digest(pack.name for pack in packs)
        point = msgspec.structs.replace(base, sid=sid, base=base.sid, packs=digest)
        self.repository.commit(seal_point(point, self.keys), packs)
        lock.close()
        return point

    @property
    def visible(self) -> dict[Sid, GoldenPoint]:
        return {point.sid: point for point in self.expected.points if not point.hidden}


@pytest.fixture(params=[(name, loss) for name in golden.names() for loss in LOSSES], ids=" ".join)
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Found]:
    made = Found(tmp_path, *request.param)
    yield made
    made.repository.close()


def check_restores(found: Found) -> None:
    for expected in found.expected.points:
        entry = found.repository.committed(expected.sid)
        assert entry is not None
        point = open_point(entry, found.keys)
        assert (point.vm_name, point.sid) == (expected.vm, expected.sid)
        assert_same(golden.restored(found.repository, point, found.keys), (expected.disks, expected.config))


def test_there_are_golden_repositories_and_they_are_small() -> None:
    assert {"format-1-encrypted", "format-1-plain"} <= set(golden.names())
    assert sum(path.stat().st_size for path in golden.FOLDER.glob("format-1-*")) < 512 << 10


def test_points_are_listed_and_restore_to_what_was_backed_up(found: Found) -> None:
    assert [entry.sid for entry in found.repository.points()] == sorted(found.visible)
    outcomes = {sid: found.repository.committed(sid) is not None for sid in found.repository.roots()}
    assert {sid for sid, committed in outcomes.items() if committed} == {p.sid for p in found.expected.points}
    assert all(found.repository.committed(sid) is None for sid in found.expected.fenced)
    check_restores(found)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_verification_finds_nothing_new(found: Found, level: int) -> None:
    report = verify(found.repository, level, keys=found.keys)
    assert report.findings == ()
    if level > 0:
        assert report.packs_checked == len(found.packs() - found.condemned())
        assert report.known == found.expected.known


def test_an_index_is_made_of_it(found: Found) -> None:
    records = found.expected.records if found.whole else found.expected.records_by_packs
    assert found.repository.index.rebuild() == records
    shutil.rmtree(found.folder / "cache")
    found.repository.close()
    found.repository = found.open()
    assert found.repository.index.rebuild() == records


def test_garbage_is_collected_and_nothing_else(found: Found) -> None:
    found.repository.recover()
    dry = collect(found.repository, dry_run=True)
    assert (dry.points, dry.live_records) == (len(found.expected.points), found.expected.live_records)
    assert (dry.lost_records, dry.packs) == (0, found.expected.packs)
    assert collect(found.repository).generation == 2, "the generation that was begun is ended first"
    assert collect(found.repository).generation == 3
    assert len(list(found.repository.store.names(layout.PACKS))) < found.expected.packs
    check_restores(found)
    assert verify(found.repository, 2, keys=found.keys).ok


def test_a_backup_goes_on_from_every_point(found: Found) -> None:
    for expected in found.expected.points:
        base = open_point(found.repository.committed(expected.sid) or pytest.fail("it is gone"), found.keys)
        point = found.back_up_on(base)
        assert_same(golden.restored(found.repository, point, found.keys), (expected.disks, expected.config))
    found.repository.recover()
    collect(found.repository)
    collect(found.repository)
    check_restores(found)


def test_what_protects_a_point_still_does(found: Found) -> None:
    for sid, point in found.visible.items():
        retention = found.repository.retentions.of(sid)
        assert (retention.until, retention.hold) == (point.until, point.hold)
        if point.hold or point.until > golden.NOW:
            with pytest.raises((PointHeld, PointRetained)):
                found.repository.tombstone(sid)
    for sid in found.expected.retired:
        with pytest.raises(UndoWindowOver):
            found.repository.undo_tombstone(sid)
    for point in found.expected.points:
        assert found.repository.undo_tombstone(point.sid) == point.hidden
    assert {entry.sid for entry in found.repository.points()} == {point.sid for point in found.expected.points}


def test_passphrases_and_paper_open_it_and_what_was_removed_does_not(found: Found) -> None:
    expected = found.expected
    assert found.repository.key_slots.all().keys() == expected.slots.keys()
    assert found.repository.epoch == expected.epoch
    for name, passphrase in expected.slots.items():
        assert open_slots(found.repository.key_slots.all(), passphrase or None, expected.repository_id) == found.master
        assert not passphrase or slots_opened(found.repository.key_slots.all(), passphrase, expected.repository_id) == [
            name
        ]
    for passphrase in (*expected.removed.values(), None if expected.paper else "any"):
        with pytest.raises(WrongPassphrase):
            open_slots(found.repository.key_slots.all(), passphrase, expected.repository_id)
    if expected.paper:
        assert decode_paper("\n".join(expected.paper)) == (found.master, expected.repository_id)


def test_dead_writers_are_fenced_and_their_leftovers_removed(found: Found) -> None:
    recovery = found.repository.recover()
    assert (recovery.fenced, recovery.leftovers) == ((found.expected.dead,), 1)
    assert found.repository.abort(found.expected.dead) is Outcome.FENCED


def test_its_host_is_known(found: Found) -> None:
    stranger = RepositoryHost("S" * 40, "stranger")
    if found.expected.host:
        with pytest.raises(RepositoryClaimed, match=found.expected.host):
            found.open(stranger)
    else:
        found.open(stranger).close()
