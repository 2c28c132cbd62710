"""Statistics against a count by brute force, over random histories of a few VMs."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import Cancelled, ObjectMissing, PointNotFound
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId, Sid, new_sid
from holdfast_agent.model.points import Point
from holdfast_agent.repository.layout import PACKS
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.statistics import count_repository
from holdfast_agent.repository.tree import TreeReader
from holdfast_agent.repository.writer import SessionWriter, store_blob
from holdfast_agent.sealing.records import RecordKind, seal_record
from holdfast_agent.sealing.roots import root_id, seal_point
from holdfast_agent.sealing.tree import child_slots, decode_node
from holdfast_agent.wire.messages import Sizes, StatisticsEnded
from lab import repositories as lab

BLOCKS = 600  # three leaves below a root
GEOMETRY = Geometry(BLOCKS * lab.BLOCK, lab.LOG2)


def back_up(
    repository: Repository, vm: str, created: float, blocks: dict[int, bytes], base: Point | None = None
) -> Point:
    sid = new_sid()
    lock = repository.begin_session(sid)
    with SessionWriter(repository, sid, 1) as writer:
        tree = base and TreeReader(repository.reader(), root_id(base.disks[0].root), base.disks[0].geometry)
        root = lab.write_tree(repository, writer, blocks, GEOMETRY, tree)
        packs = writer.publish()
    keys = lab.KEYS.blob_keys()
    config = f"the configuration of {vm}, which seldom changes".encode()
    blob = keys.block_id(config)
    packs += store_blob(repository, sid, 2, b"".join(seal_record(RecordKind.BLOB, config, blob, keys)))
    point = lab.point_of(sid, GEOMETRY, root, packs, blob.hex())
    point = msgspec.structs.replace(point, vm_id=vm, vm_name=vm, created=created)
    repository.commit(seal_point(point, lab.KEYS), packs)
    lock.close()
    return point


def history(repository: Repository, seed: int) -> list[Point]:
    """Eight points of three VMs that share blocks, subtrees and whole disks."""
    dice = random.Random(seed)
    points: list[Point] = []
    for _ in range(8):
        vm = f"vm{dice.randrange(3)}"
        own = [point for point in points if point.vm_id == vm]
        spots = dice.sample(range(BLOCKS), dice.choice([0, 1, 5, 40]) if points else 60)
        blocks = {spot: lab.ZERO if dice.random() < 0.1 else lab.block(dice.randrange(90)) for spot in spots}
        base = dice.choice(own or points or [None])
        points.append(back_up(repository, vm, dice.uniform(1, 100), blocks, base))
    return points


class Brute:
    """All records of a point, by reading everything: id → (is it data, stored bytes)."""

    def __init__(self, repository: Repository, point: Point) -> None:
        self.point = point
        self.records: dict[BlockId, tuple[bool, int]] = {}
        self.used = 0
        self._reader = repository.reader()
        disk = point.disks[0]
        ids = [each for each in TreeReader(self._reader, root_id(disk.root), disk.geometry).ids() if each != HOLE]
        self.used = len(ids) * lab.BLOCK
        for each in ids:
            self._take(each, True)
        if disk.root != HOLE.hex():
            self._nodes(root_id(disk.root), 1)
        assert point.config is not None
        self._take(root_id(point.config), False)

    def _take(self, record: BlockId, data: bool) -> bytes:
        stored = self._reader.read_record(record)
        self.records[record] = (data, len(stored))
        return stored

    def _nodes(self, node: BlockId, level: int) -> None:
        record = self._take(node, False)
        if level:
            for _, child in child_slots(decode_node(record[96:], node, level, lab.LOG2)):
                self._nodes(child, level - 1)


def sizes_of(members: list[Brute], others: list[Brute], before: list[Brute]) -> Sizes:
    """The sizes of ``members``, where what ``before`` has is attributed there, and ``others`` keep what they have."""
    earlier = {record for brute in before for record in brute.records}
    elsewhere = {record for brute in others for record in brute.records}
    records = {record: facts for brute in members for record, facts in brute.records.items()}
    new = {record: facts for record, facts in records.items() if record not in earlier}
    return Sizes(
        logical_bytes=len(members) * GEOMETRY.size_bytes,
        used_bytes=sum(brute.used for brute in members),
        unique_bytes=sum(lab.BLOCK for data, _ in new.values() if data),
        stored_bytes=sum(length for data, length in new.values() if data),
        metadata_bytes=sum(length for data, length in new.values() if not data),
        freed_bytes=sum(length for record, (_, length) in records.items() if record not in elsewhere),
    )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    lab.create(tmp_path / "repository")
    return lab.open_at(tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_statistics_equal_a_count_by_brute_force(repository: Repository, seed: int) -> None:
    points = history(repository, seed)
    hidden = points.pop(random.Random(seed).randrange(len(points)))
    repository.tombstone(hidden.sid)
    brutes = [Brute(repository, point) for point in sorted(points, key=lambda point: (point.created, point.sid))]
    found = count_repository(repository, "t")
    assert found.total == sizes_of(brutes, [], [])
    assert [each.sid for each in found.points] == [brute.point.sid for brute in brutes]
    for number, each in enumerate(found.points):
        others = brutes[:number] + brutes[number + 1 :]
        assert each.sizes == sizes_of([brutes[number]], others, brutes[:number]), number
    assert {vm.vm_id for vm in found.vms} == {point.vm_id for point in points}
    for vm in found.vms:
        own = [brute for brute in brutes if brute.point.vm_id == vm.vm_id]
        others = [brute for brute in brutes if brute.point.vm_id != vm.vm_id]
        parts = [sizes_of([brute], [], brutes[: brutes.index(brute)]) for brute in own]
        assert vm.points == len(own)
        assert vm.sizes.freed_bytes == sizes_of(own, others, []).freed_bytes
        for field in ("logical_bytes", "used_bytes", "unique_bytes", "stored_bytes", "metadata_bytes"):
            assert getattr(vm.sizes, field) == sum(getattr(part, field) for part in parts), field
    names = list(repository.store.names(PACKS))
    assert found.packs_bytes == sum(repository.store.size(name) for name in names)
    repository.close()


def test_what_a_point_frees_goes_with_it_and_nothing_else(repository: Repository) -> None:
    points = history(repository, 99)
    for point in points:
        before = count_repository(repository, "t")
        (own,) = (each.sizes for each in before.points if each.sid == point.sid)
        repository.tombstone(point.sid)
        after = count_repository(repository, "t")
        gone = _needed(before) - _needed(after)
        assert gone == own.freed_bytes
    assert count_repository(repository, "t").total == Sizes()
    repository.close()


def test_only_what_was_asked_for_is_told(repository: Repository) -> None:
    points = history(repository, 3)
    found = count_repository(repository, "t", [points[2].sid])
    assert [each.sid for each in found.points] == [points[2].sid]
    assert found.total == count_repository(repository, "t").total
    with pytest.raises(PointNotFound):
        count_repository(repository, "t", [Sid("0" * 32)])
    repository.close()


def test_it_stops_when_told_and_tells_of_damage(repository: Repository, tmp_path: Path) -> None:
    history(repository, 4)
    with pytest.raises(Cancelled):
        count_repository(repository, "t", cancel=lambda: True)
    for pack in (tmp_path / "repository" / "packs" / "d").rglob("*-d*"):
        pack.unlink()
    for segment in (tmp_path / "repository" / "index").iterdir():
        segment.unlink()
    repository.index.rebuild()
    with pytest.raises(ObjectMissing):
        count_repository(repository, "t")
    repository.close()


def _needed(found: StatisticsEnded) -> int:
    return found.total.stored_bytes + found.total.metadata_bytes
