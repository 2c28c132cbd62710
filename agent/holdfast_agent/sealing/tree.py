"""The block tree of a disk: a fixed radix tree of ids, 256 to a node.

Node ``i`` of level ``n`` covers blocks ``[i << 8(n+1), (i+1) << 8(n+1))``. Trailing holes are cut off, and a node
of holes only is itself a hole and never stored; so the tree depends on the content alone, a grown disk keeps its
nodes, and the same content always has the same root. Pure: both ends of a transfer compute the root by themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec
from blake3 import blake3

from holdfast_agent.errors import ObjectDamaged
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId

FANOUT_LOG2 = 8
FANOUT = 1 << FANOUT_LOG2
_MAGIC = b"HFND"
_VERSION = 1
_HEADER = struct.Struct("<4sBBBBHHI")
NODE_HEADER_BYTES = _HEADER.size
MOST_NODE_BYTES = NODE_HEADER_BYTES + FANOUT * ID_BYTES
_HOLES = bytes(FANOUT * ID_BYTES)


class Node(msgspec.Struct, frozen=True):
    """A decoded node: ``ids`` are its children's ids one after the other, trailing holes cut off."""

    level: int
    block_log2: int
    ids: bytes

    def child(self, slot: int) -> BlockId:
        return BlockId(self.ids[slot * ID_BYTES : (slot + 1) * ID_BYTES] or HOLE)

    @property
    def children(self) -> int:
        return len(self.ids) // ID_BYTES


def root_level(geometry: Geometry) -> int:
    """Level of the root: the least whose node covers all blocks; 0 (a leaf) for up to 256 blocks."""
    level = 0
    while geometry.blocks > 1 << FANOUT_LOG2 * (level + 1):
        level += 1
    return level


def encode_node(level: int, block_log2: int, ids: bytes | bytearray) -> tuple[BlockId, bytes]:
    """(id, bytes) of the node with these children, or (HOLE, b"") if all of them are holes.

    ``ids`` are up to 256 ids one after the other. The id is the plain BLAKE3 of the bytes.
    """
    count = len(ids) // ID_BYTES
    if len(ids) % ID_BYTES or count > FANOUT:
        raise ValueError("a node holds up to 256 whole ids")
    while count and not any(ids[(count - 1) * ID_BYTES : count * ID_BYTES]):
        count -= 1
    if not count:
        return HOLE, b""
    data = _HEADER.pack(_MAGIC, _VERSION, level, block_log2, 0, count, 0, 0) + bytes(ids[: count * ID_BYTES])
    return BlockId(blake3(data).digest()), data


def decode_node(data: bytes, node_id: BlockId, level: int, block_log2: int) -> Node:
    """Check that ``data`` is the canonical node ``node_id`` of that level and block size.

    Raises :class:`ObjectDamaged`. The id has been checked against the bytes by whoever read them.
    """
    name = f"node {node_id.hex()[:16]}"
    if len(data) < NODE_HEADER_BYTES or len(data) > MOST_NODE_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its length is impossible")
    magic, version, found_level, found_log2, zero, count, zeros, more = _HEADER.unpack_from(data)
    ids = data[NODE_HEADER_BYTES:]
    if magic != _MAGIC or version != _VERSION or zero or zeros or more:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="this is not a tree node of format 1")
    if (found_level, found_log2) != (level, block_log2):
        raise ObjectDamaged(name=name, offset_bytes=0, reason="it belongs to another place of a tree")
    if not count or count > FANOUT or len(ids) != count * ID_BYTES or not any(ids[-ID_BYTES:]):
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its number of ids is wrong")
    return Node(level, block_log2, ids)


def compute_root(ids: Iterable[BlockId], geometry: Geometry) -> BlockId:
    """Root id of a disk from the ids of all its blocks, ascending, holes included.

    Used by a source to prove that the target built the tree that it sent. Memory does not grow with the disk.
    Raises ValueError unless there are exactly ``geometry.blocks`` ids.
    """
    remaining = iter(ids)
    folded = _Folder(geometry.block_log2)
    left = geometry.blocks
    while left > 0:
        chunk = b"".join(islice(remaining, min(FANOUT, left)))
        if len(chunk) != min(FANOUT, left) * ID_BYTES:
            raise ValueError(f"a disk of {geometry.blocks} blocks has as many ids")
        folded.add(chunk)
        left -= FANOUT
    if next(remaining, None) is not None:
        raise ValueError(f"a disk of {geometry.blocks} blocks has no more ids")
    return folded.root(root_level(geometry))


def child_slots(node: Node) -> Iterator[tuple[int, BlockId]]:
    """(slot, id) of the children that are no holes, ascending."""
    for slot in range(node.children):
        child = node.child(slot)
        if child != HOLE:
            yield slot, child


class _Folder:
    """Folds leaves, in order, into their parents; keeps one open node per level."""

    def __init__(self, block_log2: int) -> None:
        self._block_log2 = block_log2
        self._open: list[bytearray] = []

    def add(self, leaf: bytes) -> None:
        node_id = HOLE if leaf == _HOLES else encode_node(0, self._block_log2, leaf)[0]
        self._push(1, node_id)

    def _push(self, level: int, node_id: BlockId) -> None:
        while len(self._open) < level:
            self._open.append(bytearray())
        pending = self._open[level - 1]
        if len(pending) == len(_HOLES):
            full = encode_node(level, self._block_log2, pending)[0]
            pending.clear()
            self._push(level + 1, full)
        pending += node_id

    def root(self, level: int) -> BlockId:
        for lower in range(1, level + 1):
            node_id = encode_node(lower, self._block_log2, self._open[lower - 1])[0]
            if lower == level:
                return node_id
            self._push(lower + 1, node_id)
        return BlockId(bytes(self._open[0])) if self._open else HOLE
