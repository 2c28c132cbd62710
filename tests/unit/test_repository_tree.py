"""Trees in a repository: inheritance, growth and shrinking, and what an incremental costs."""

from __future__ import annotations

import random
import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import ObjectDamaged, ObjectMissing
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId, new_sid
from holdfast_agent.repository import tree
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.tree import TreeBuilder, TreeReader
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.tree import compute_root
from lab import repositories as lab

RANDOM = random.Random(11)


class Counted(SessionWriter):
    """A writer that counts the nodes that are really stored."""

    stored = 0

    def append_node(self, node_id: BlockId, data: bytes) -> bool:
        stored = super().append_node(node_id, data)
        self.stored += stored
        return stored


@pytest.fixture
def writer(repository: Repository) -> Iterator[Counted]:
    sid = new_sid()
    lock = repository.begin_session(sid)
    with Counted(repository, sid, 1) as made:
        yield made
    lock.close()


def geometry(blocks: int) -> Geometry:
    return Geometry(blocks << lab.LOG2, lab.LOG2)


def some_ids(count: int, holes: float = 0.3) -> list[BlockId]:
    return [HOLE if RANDOM.random() < holes else BlockId(RANDOM.randbytes(32)) for _ in range(count)]


def build(
    writer: SessionWriter, ids: dict[int, BlockId] | list[BlockId], blocks: int, base: TreeReader | None = None
) -> BlockId:
    with TreeBuilder(geometry(blocks), base) as builder:
        for block, identity in ids.items() if isinstance(ids, dict) else enumerate(ids):
            builder.set(block, identity)
        return builder.finish(writer)


def reader_of(repository: Repository, writer: SessionWriter, root: BlockId, blocks: int) -> TreeReader:
    writer.publish()
    return TreeReader(repository.reader(), root, geometry(blocks))


@pytest.mark.parametrize("blocks", [0, 1, 255, 256, 257, 1000, 65536, 65537, 66100])
def test_the_stored_tree_is_the_computed_one_and_reads_back(
    repository: Repository, writer: Counted, blocks: int
) -> None:
    ids = some_ids(blocks)
    root = build(writer, ids, blocks)
    assert root == compute_root(ids, geometry(blocks))
    reader = reader_of(repository, writer, root, blocks)
    assert list(reader.ids()) == ids
    for start in {0, 1, 255, 256, 300, blocks - 1, blocks} & set(range(blocks + 1)):
        assert list(reader.ids(start)) == ids[start:]


def test_order_of_setting_does_not_matter_and_the_last_counts(writer: Counted) -> None:
    ids = some_ids(600)
    shuffled = list(range(600))
    RANDOM.shuffle(shuffled)
    with TreeBuilder(geometry(600)) as builder:
        for block in shuffled:
            builder.set(block, BlockId(b"w" * 32))
            builder.set(block, ids[block])
        assert builder.finish(writer) == compute_root(ids, geometry(600))


def test_an_incremental_stores_touched_leaves_and_their_ancestors_only(repository: Repository, writer: Counted) -> None:
    blocks = 256 * 256 + 2000  # three levels, 264 leaves
    ids = some_ids(blocks, holes=0)
    base = reader_of(repository, writer, build(writer, ids, blocks), blocks)
    assert writer.stored == 264 + 2 + 1
    for changed, nodes in (([5], 3), ([5, 200], 3), ([5, 300], 4), ([5, 65536], 5), ([], 0)):
        before = writer.stored
        fresh = {block: BlockId(RANDOM.randbytes(32)) for block in changed}
        root = build(writer, fresh, blocks, base)
        assert writer.stored - before == nodes
        assert root == compute_root([fresh.get(n, ids[n]) for n in range(blocks)], base.geometry)


def test_setting_the_same_ids_stores_nothing(repository: Repository, writer: Counted) -> None:
    ids = some_ids(700)
    base = reader_of(repository, writer, build(writer, ids, 700), 700)
    before = writer.stored
    assert build(writer, ids, 700, base) == base.root
    assert writer.stored == before


@pytest.mark.parametrize("old", [0, 1, 200, 256, 257, 900, 65536, 65800])
@pytest.mark.parametrize("new", [0, 1, 199, 256, 300, 1000, 65536, 65537])
def test_growing_and_shrinking(repository: Repository, writer: Counted, old: int, new: int) -> None:
    ids = some_ids(old)
    base = reader_of(repository, writer, build(writer, ids, old), old)
    change = {block: BlockId(RANDOM.randbytes(32)) for block in (new // 2, new - 1) if 0 <= block < new}
    for fresh in ({}, change):
        expected = [fresh.get(n, ids[n] if n < old else HOLE) for n in range(new)]
        root = build(writer, fresh, new, base)
        assert root == compute_root(expected, geometry(new))
        assert list(reader_of(repository, writer, root, new).ids()) == expected


def test_growing_by_one_level_stores_few_nodes(repository: Repository, writer: Counted) -> None:
    ids = some_ids(65536, holes=0)
    base = reader_of(repository, writer, build(writer, ids, 65536), 65536)
    before = writer.stored
    build(writer, {}, 65537, base)
    assert writer.stored - before == 1


def test_more_leaves_than_fit_in_memory_are_spilled(
    repository: Repository, writer: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_LEAVES_IN_MEMORY", 3)
    ids = some_ids(256 * 9)
    order = list(range(len(ids)))
    RANDOM.shuffle(order)
    with TreeBuilder(geometry(len(ids)), scratch=tmp_path) as builder:
        for block in order:
            builder.set(block, ids[block])
        assert len(builder._leaves._held) <= 3
        assert builder.finish(writer) == compute_root(ids, geometry(len(ids)))
    assert not list(tmp_path.glob("holdfast-tree-*"))


def test_a_leaf_that_is_spilled_in_part_is_no_leaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the scratch file system gets full in the middle of one: the other half would read as holes."""
    monkeypatch.setattr(tree, "_LEAVES_IN_MEMORY", 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TreeBuilder(geometry(256 * 3), scratch=tmp_path) as builder:
        builder.set(0, BlockId(RANDOM.randbytes(32)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 32 // 2, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                builder.set(256, BlockId(RANDOM.randbytes(32)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_huge_sparse_disk_costs_what_is_on_it(repository: Repository, writer: Counted) -> None:
    size = Geometry(64 << 40, 20)
    tracemalloc.start()
    with TreeBuilder(size) as builder:
        for step in range(100):
            builder.set(step * (size.blocks // 100), BlockId(RANDOM.randbytes(32)))
        root = builder.finish(writer)
    writer.publish()
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert writer.stored <= 100 * 4
    assert sum(1 for _ in TreeReader(repository.reader(), root, size).leaves()) == 100


def test_a_block_outside_the_disk_or_another_block_size_is_a_defect(repository: Repository) -> None:
    with TreeBuilder(geometry(10)) as builder:
        for block in (-1, 10):
            with pytest.raises(ValueError, match="outside"):
                builder.set(block, HOLE)
    base = TreeReader(repository.reader(), HOLE, Geometry(1 << 20, 20))
    with pytest.raises(ValueError, match="same block size"):
        TreeBuilder(geometry(10), base)


def test_a_missing_node_or_one_of_another_place_is_told(repository: Repository, writer: Counted) -> None:
    root = build(writer, some_ids(300), 300)
    writer.publish()
    with pytest.raises(ObjectMissing):
        list(TreeReader(repository.reader(), BlockId(b"x" * 32), geometry(300)).ids())
    for wrong in (geometry(10), geometry(70000), Geometry(300 << 20, 20)):
        with pytest.raises(ObjectDamaged, match="another place"):
            list(TreeReader(repository.reader(), root, wrong).ids())
