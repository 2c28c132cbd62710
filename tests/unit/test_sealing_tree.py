"""The block tree as pure computation: canonical nodes and roots."""

from __future__ import annotations

import random
import time

import pytest

from holdfast_agent.errors import ObjectDamaged
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId
from holdfast_agent.sealing.tree import child_slots, compute_root, decode_node, encode_node, root_level

MIB = 1 << 20
RANDOM = random.Random(7)


def some_ids(count: int) -> list[BlockId]:
    return [BlockId(RANDOM.randbytes(32)) for _ in range(count)]


def naive_root(ids: list[BlockId], geometry: Geometry) -> BlockId:
    """The definition, level by level, with everything in memory."""
    current = list(ids)
    level = 0
    while True:
        current = [
            encode_node(level, geometry.block_log2, b"".join(current[start : start + 256]))[0]
            for start in range(0, len(current), 256)
        ]
        if level == root_level(geometry):
            return current[0] if current else HOLE
        level += 1


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 511, 65535, 65536, 65537, 66000])
def test_the_streamed_root_is_the_defined_one(count: int) -> None:
    geometry = Geometry(count * MIB)
    ids = some_ids(count)
    for position in RANDOM.sample(range(count), count // 3):
        ids[position] = HOLE
    assert compute_root(ids, geometry) == naive_root(ids, geometry)


@pytest.mark.parametrize(
    ("blocks", "level"), [(0, 0), (1, 0), (256, 0), (257, 1), (65536, 1), (65537, 2), (1 << 20, 2)]
)
def test_levels(blocks: int, level: int) -> None:
    assert root_level(Geometry(blocks * MIB)) == level


def test_an_empty_disk_of_any_size_is_a_hole() -> None:
    for blocks in (0, 1, 256, 300, 70000):
        assert compute_root([HOLE] * blocks, Geometry(blocks * MIB)) == HOLE


def test_a_terabyte_takes_about_a_second_at_most() -> None:
    geometry = Geometry(1 << 40)
    started = time.process_time()
    ids = [BlockId(b"x" * 32)] + [HOLE] * (geometry.blocks - 1)
    compute_root(ids, geometry)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("wrong", [255, 257])
def test_the_number_of_ids_must_fit(wrong: int) -> None:
    with pytest.raises(ValueError, match="blocks"):
        compute_root(some_ids(wrong), Geometry(256 * MIB))


def test_growing_by_zeros_keeps_every_node_of_the_same_level() -> None:
    ids = some_ids(200)
    assert compute_root(ids, Geometry(200 * MIB)) == compute_root([*ids, HOLE], Geometry(201 * MIB))


def test_a_changed_block_size_or_place_changes_the_root() -> None:
    ids = some_ids(300)
    root = compute_root(ids, Geometry(300 * MIB))
    assert compute_root(ids, Geometry(300 << 16, 16)) != root
    assert compute_root([*ids[1:], ids[0]], Geometry(300 * MIB)) != root


def test_nodes_round_trip_without_trailing_holes() -> None:
    ids = some_ids(3)
    node_id, data = encode_node(1, 20, b"".join([ids[0], HOLE, ids[1], HOLE, HOLE]))
    node = decode_node(data, node_id, 1, 20)
    assert list(child_slots(node)) == [(0, ids[0]), (2, ids[1])]
    assert (node.child(1), node.child(200)) == (HOLE, HOLE)


def test_malformed_nodes_are_refused() -> None:
    node_id, data = encode_node(1, 20, b"".join(some_ids(3)))
    for damaged in (b"", data[:15], data[:-1], data + b"\0", data[:-32] + bytes(32), data + b"i" * 32 * 256):
        with pytest.raises(ObjectDamaged):
            decode_node(damaged, node_id, 1, 20)
    for position in range(16):
        altered = bytearray(data)
        altered[position] ^= 1
        with pytest.raises(ObjectDamaged):
            decode_node(bytes(altered), node_id, 1, 20)
    for level, log2 in ((0, 20), (2, 20), (1, 16)):
        with pytest.raises(ObjectDamaged, match="another place"):
            decode_node(data, node_id, level, log2)


@pytest.mark.parametrize("ids", [b"x" * 31, b"x" * 32 * 257])
def test_a_node_of_other_than_whole_ids_is_a_defect(ids: bytes) -> None:
    with pytest.raises(ValueError, match="256 whole ids"):
        encode_node(0, 20, ids)
