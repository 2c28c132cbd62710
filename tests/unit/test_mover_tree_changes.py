"""The comparison of two trees names exactly the blocks that differ, and reads nothing that both have."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.mover.tree_changes import changed_leaves, leaf_at
from holdfast_agent.sealing.tree import FANOUT, compute_root, decode_node, encode_node, root_level
from holdfast_agent.wire.specs import BlockTree

LOG2 = 16
Blocks = Mapping[int, BlockId]


class Nodes:
    """A store of nodes that counts what is read of it."""

    def __init__(self) -> None:
        self.stored: dict[BlockId, bytes] = {}
        self.read: list[BlockId] = []

    def plant(self, blocks: Blocks, count: int) -> BlockTree:
        """Store the tree of a disk of ``count`` blocks."""
        geometry = Geometry(count << LOG2, LOG2)
        level: dict[int, BlockId] = {number: block for number, block in blocks.items() if block != HOLE}
        root = HOLE
        for depth in range(root_level(geometry) + 1):
            parents: dict[int, bytearray] = {}
            for index, child in level.items():
                place = (index % FANOUT) * ID_BYTES
                parents.setdefault(index // FANOUT, bytearray(FANOUT * ID_BYTES))[place : place + ID_BYTES] = child
            level = {}
            for index, ids in parents.items():
                root, data = encode_node(depth, LOG2, ids)
                level[index] = root
                self.stored[root] = data
        ids = (blocks.get(number, HOLE) for number in range(count))
        assert compute_root(ids, geometry) == (root if level else HOLE)
        return BlockTree(root if level else HOLE, geometry)

    def children(self, nodes: Sequence[tuple[BlockId, int]]) -> list[bytes]:
        self.read += [node for node, _ in nodes]
        return [decode_node(self.stored[node], node, level, LOG2).ids for node, level in nodes]


def identity(seed: object) -> BlockId:
    return BlockId(random.Random(repr(seed)).randbytes(ID_BYTES))


def changed(nodes: Nodes, tree: BlockTree, since: BlockTree | None) -> list[int]:
    end = tree.geometry.blocks
    runs = [run for leaf in changed_leaves(tree, since, nodes.children) for run in leaf.changes(end)]
    assert runs == sorted(runs)
    return [block for first, count in runs for block in range(first, first + count)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 200, 256, 257, 70_000]),
    st.sampled_from([1, 200, 256, 257, 70_000]),
    st.integers(0, 1 << 30),
)
def test_exactly_the_blocks_that_differ(old_count: int, new_count: int, seed: int) -> None:
    """Disks that grow and shrink, over changes of the tree's height, with holes on both sides."""
    rng = random.Random(seed)
    nodes = Nodes()
    old = {rng.randrange(old_count): identity((seed, number)) for number in range(rng.randrange(300))}
    new = {block: held for block, held in old.items() if block < new_count and rng.random() < 0.9}
    new |= {rng.randrange(new_count): identity((seed, "new", number)) for number in range(rng.randrange(20))}
    tree, since = nodes.plant(new, new_count), nodes.plant(old, old_count)

    expected = [block for block in sorted({*old, *new}) if block < new_count and old.get(block) != new.get(block)]
    assert changed(nodes, tree, since) == expected
    assert changed(nodes, tree, None) == sorted(new)
    for block in rng.sample(range(new_count), min(new_count, 5)):
        at = (block % FANOUT) * ID_BYTES
        assert leaf_at(tree, block, nodes.children)[at : at + ID_BYTES] == new.get(block, HOLE)


def test_a_change_costs_its_path_and_nothing_else() -> None:
    nodes = Nodes()
    old = {block: identity(block) for block in range(0, 70_000, 10)}
    since = nodes.plant(old, 70_000)
    tree = nodes.plant(old | {5_000: identity("new")}, 70_000)
    nodes.read.clear()
    assert changed(nodes, tree, since) == [5_000]
    assert len(nodes.read) == 2 * 3, "root, inner node and leaf of both trees"
    nodes.read.clear()
    assert changed(nodes, tree, tree) == []
    assert nodes.read == []


def test_a_disk_that_grew_without_data_has_not_changed() -> None:
    """The smaller tree's root is raised by calculation: nobody has stored the nodes above it."""
    nodes = Nodes()
    old = {block: identity(block) for block in range(200)}
    since, tree = nodes.plant(old, 200), nodes.plant(old, 70_000)
    nodes.read.clear()
    assert changed(nodes, tree, since) == []
    assert nodes.read == []


def test_block_sizes_are_not_compared() -> None:
    nodes = Nodes()
    tree = nodes.plant({0: identity(0)}, 4)
    with pytest.raises(ValueError, match="block size"):
        list(changed_leaves(tree, BlockTree(identity(1), Geometry(1 << 20, 20)), nodes.children))
