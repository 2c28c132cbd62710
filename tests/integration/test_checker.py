"""Level 2 by a pair of real movers: every distinct record of many trees once, and nothing taken on trust."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId, Sid
from holdfast_agent.mover.seen import Seen
from holdfast_agent.repository.quarantine import Quarantine
from holdfast_agent.repository.repository import Repository
from holdfast_agent.sealing.records import HEADER_BYTES
from holdfast_agent.sealing.roots import root_id
from lab import repositories as lab
from lab.movers import Site

GEOMETRY = Geometry(70_000 * lab.BLOCK + 512, lab.LOG2)
"""Three levels of nodes, and a last block that is cut."""
FULL = {number: lab.block(number) for number in (0, 1, 2, 300, 65_536, 70_000)} | {5: lab.block(0)}
Tree = tuple[BlockId, Geometry]


class Points:
    """Two points of one disk: the second changed one block of the first."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.repository = lab.open_at(site.folder)
        first = lab.backup(self.repository, FULL, GEOMETRY, sid=Sid("0" * 32))  # its packs are looked at first
        second = lab.backup(self.repository, {1: lab.block("changed")}, GEOMETRY, first)
        self.trees: list[Tree] = [(root_id(point.disks[0].root), GEOMETRY) for point in (first, second)]

    def place_of(self, record_id: BlockId) -> tuple[Path, int, int]:
        (home,) = self.repository.index.find([record_id])[record_id]
        (path,) = (self.site.folder / "repository" / "packs").rglob(home.pack)
        return path, home.offset, home.length


@pytest.fixture(params=["between", "within"])
def points(tmp_path: Path, request: pytest.FixtureRequest) -> Points:
    made = Points(Site(tmp_path, within=request.param == "within"))
    made.repository.close()
    made.repository = lab.open_at(tmp_path)
    return made


def flip(points: Points, record_id: BlockId) -> None:
    path, offset, length = points.place_of(record_id)
    lab.flip(path, offset + length - 3)


def lie(points: Points, record_id: BlockId) -> None:
    """A record whose CRCs are right and whose content is not: only the key can tell."""
    path, offset, length = points.place_of(record_id)
    data = bytearray(path.read_bytes())
    data[offset + HEADER_BYTES + 20] ^= 1
    data[offset + 88 : offset + 92] = zlib.crc32(data[offset + HEADER_BYTES : offset + length]).to_bytes(4, "little")
    data[offset + 92 : offset + 96] = zlib.crc32(data[offset : offset + 92]).to_bytes(4, "little")
    path.chmod(0o600)
    path.write_bytes(data)


def noted(repository: Repository) -> list[BlockId]:
    return sorted(Quarantine.read(repository.store).record_ids())


def test_every_distinct_block_of_many_points_is_read_once(points: Points) -> None:
    done = points.site.check([*points.trees, *points.trees, (HOLE, GEOMETRY), (HOLE, Geometry(0, lab.LOG2))])
    assert (done.proxy.bad, done.proxy.bad_count, done.proxy.skipped) == ((), 0, 0)
    assert done.proxy.blocks_checked == 7  # six distinct ones and the changed one
    counters = done.counters
    assert counters.processed_bytes == counters.size_bytes == 5 * GEOMETRY.size_bytes
    assert counters.sent_bytes == 6 * lab.BLOCK + 512
    assert noted(points.repository) == []


@pytest.mark.parametrize("damage", [flip, lie])
@pytest.mark.parametrize("what", ["block", "node"])
def test_what_is_not_what_its_id_says_is_named_and_put_aside(points: Points, damage: object, what: str) -> None:
    target = lab.block_id(FULL[300]) if what == "block" else points.trees[1][0]
    assert callable(damage)
    damage(points, target)
    done = points.site.check(points.trees)
    assert [bad.id for bad in done.proxy.bad] == [target], "the checker is broken"
    assert done.proxy.bad_count == 1
    assert done.proxy.blocks_checked == 6
    assert noted(points.repository) == [target]


def test_a_block_with_another_good_home_is_no_loss(points: Points) -> None:
    wanted = lab.block_id(FULL[2])
    lie(points, wanted)
    with points.site.session() as lock, lab.SessionWriter(points.repository, lock.sid, 9) as writer:
        writer.append(*lab.seal(FULL[2]))
        writer.publish()
    done = points.site.check(points.trees)
    assert done.proxy.bad == ()
    assert done.proxy.blocks_checked == 7
    assert noted(points.repository) == [wanted]


def test_a_lost_record_is_named(points: Points) -> None:
    target = lab.block_id(lab.block("changed"))
    points.place_of(target)[0].unlink()
    done = points.site.check(points.trees)
    assert [bad.id for bad in done.proxy.bad] == [target], "the checker is broken"
    assert "missing" in done.proxy.bad[0].reason


def test_bounds_leave_blocks_unread_and_say_so(points: Points) -> None:
    late = points.site.check(points.trees, max_duration_s=1e-6)
    assert late.proxy.skipped > 0
    assert late.proxy.blocks_checked < 7
    sampled = points.site.check(points.trees, sample_percent=1e-6)
    assert (sampled.proxy.blocks_checked, sampled.proxy.skipped) == (0, 7)


def test_ids_are_new_once() -> None:
    seen = Seen()
    ids = [BlockId(bytes([number]) * 32) for number in range(200)]
    many = [BlockId(number.to_bytes(32, "big")) for number in range(3000)]
    assert seen.new([ids[1], ids[0], ids[1]]) == [ids[1], ids[0]]
    assert seen.new(ids) == ids[2:]
    assert seen.new(ids) == []
    assert seen.new(many) == many[1:]  # 0 is the id of 32 zeros, which was there
    seen.close()
