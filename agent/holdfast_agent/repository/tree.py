"""Block trees in a repository: reading one, and building the next from what changed.

The codec of nodes and the pure computation of a root stand in ``sealing.tree``.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from holdfast_agent.descriptors import write_at
from holdfast_agent.errors import ObjectMissing
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.sealing.records import open_plain_record
from holdfast_agent.sealing.tree import FANOUT, FANOUT_LOG2, Node, child_slots, decode_node, encode_node, root_level

from .readers import BlockReader
from .writer import SessionWriter

_CACHED_NODES = 512  # 4 MiB
_LEAVES_IN_MEMORY = 2048  # 16 MiB: half a TiB of 1 MiB blocks; more are spilled to an unlinked file
_NODE_BYTES = FANOUT * ID_BYTES


class TreeReader:
    """One disk's tree. Every node is checked against its id and place when it is read. One owner thread."""

    def __init__(self, reader: BlockReader, root: BlockId, geometry: Geometry) -> None:
        self.geometry = geometry
        self.root = root
        self._reader = reader
        self._top = root_level(geometry)
        self._cache: OrderedDict[BlockId, Node] = OrderedDict()

    def ids(self, start_block: int = 0) -> Iterator[BlockId]:
        """Ids of the blocks ``[start_block, geometry.blocks)``, ascending, :data:`HOLE` for holes.

        Each node is read once; missing subtrees cost nothing. Raises :class:`ObjectMissing` or
        :class:`ObjectDamaged` at the first node that cannot be read.
        """
        position = start_block
        for first, ids in self.leaves(start_block):
            yield from repeat(HOLE, first - position)
            end = min(first + len(ids) // ID_BYTES, self.geometry.blocks)
            for block in range(max(position, first), end):
                place = (block - first) * ID_BYTES
                yield BlockId(ids[place : place + ID_BYTES])
            position = max(position, end)
        yield from repeat(HOLE, self.geometry.blocks - position)

    def leaves(self, start_block: int = 0) -> Iterator[tuple[int, bytes]]:
        """(first block, ids without trailing holes) of each stored leaf, ascending, from that of ``start_block`` on."""
        yield from self._leaves(self._top, self.root, 0, start_block)

    def children(self, level: int, index: int) -> bytes:
        """Ids of the children of node ``index`` of ``level``, trailing holes cut off; b"" if it is a hole.

        A level above the root's has one node, whose first child is the root of the level below: that is how the tree
        of a disk that has grown begins.
        """
        node_id = self._id_at(level, index)
        if node_id == HOLE:
            return b""
        return self._id_at(level - 1, 0) if level > self._top else self._node(level, node_id).ids

    def _id_at(self, level: int, index: int) -> BlockId:
        if level >= self._top:
            node_id = self.root if index == 0 else HOLE
            for above in range(self._top + 1, level + 1):
                node_id = encode_node(above, self.geometry.block_log2, node_id)[0]
            return node_id
        parent = self.children(level + 1, index >> FANOUT_LOG2)
        place = (index & FANOUT - 1) * ID_BYTES
        return BlockId(parent[place : place + ID_BYTES] or HOLE)

    def _leaves(self, level: int, node_id: BlockId, index: int, start: int) -> Iterator[tuple[int, bytes]]:
        first, following = (number << FANOUT_LOG2 * (level + 1) for number in (index, index + 1))
        if node_id == HOLE or following <= start or first >= self.geometry.blocks:
            return
        node = self._node(level, node_id)
        if level == 0:
            yield first, node.ids
            return
        for slot, child in child_slots(node):
            yield from self._leaves(level - 1, child, (index << FANOUT_LOG2) + slot, start)

    def _node(self, level: int, node_id: BlockId) -> Node:
        node = self._cache.get(node_id)
        if node is None or node.level != level:
            data = open_plain_record(self._reader.read_record(node_id), node_id)
            node = self._cache[node_id] = decode_node(data, node_id, level, self.geometry.block_log2)
            if len(self._cache) > _CACHED_NODES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(node_id)
        return node


class TreeBuilder:
    """The tree of one disk: the base's where nothing was set, without a base holes. One owner thread; close it.

    Untouched subtrees keep their ids, so only leaves that changed and their ancestors are stored. A disk may have
    grown or shrunk against the base: blocks beyond its end are dropped. If it shrank into the middle of a block, the
    caller sets that block anew (what lies beyond the end counts as zeros); growing changes no block.
    """

    def __init__(self, geometry: Geometry, base: TreeReader | None = None, scratch: Path | None = None) -> None:
        """``scratch``: folder for the spilled leaves of very large disks (8 KiB for each 256 blocks)."""
        if base is not None and base.geometry.block_log2 != geometry.block_log2:
            raise ValueError("a base must have the same block size")
        self._geometry = geometry
        self._base = base
        self._leaves = _Leaves(scratch)

    def __enter__(self) -> TreeBuilder:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the spilled leaves. Idempotent."""
        self._leaves.close()

    def set(self, block: int, block_id: BlockId) -> None:
        """The id of one block, :data:`HOLE` for zeros. In any order; ascending is fastest. The last call counts."""
        if not 0 <= block < self._geometry.blocks:
            raise ValueError(f"block {block} lies outside a disk of {self._geometry.blocks} blocks")
        place = (block & FANOUT - 1) * ID_BYTES
        self._touch(block >> FANOUT_LOG2)[place : place + ID_BYTES] = block_id

    def unsafe_blocks(self, writer: SessionWriter) -> Iterator[int]:
        """Blocks of the base that may not be inherited, ascending: their records vanish soon, or are lost.

        Ask before the transfer begins and have those blocks sent as if they had changed. Costs a look-up for each
        block, but only while a collector has condemned packs, or packs are lost or in quarantine.
        """
        if self._base is None or not writer.shuns:
            return
        for first, ids in self._base.leaves():
            leaf = [BlockId(ids[place : place + ID_BYTES]) for place in range(0, len(ids), ID_BYTES)]
            for block, missing in enumerate(writer.missing(leaf), first):
                if missing and block < self._geometry.blocks:
                    yield block

    def finish(self, writer: SessionWriter) -> BlockId:
        """Store the nodes that are new and give the root's id (:data:`HOLE` for a disk of zeros).

        Raises :class:`ObjectMissing` if an inherited block may not be referred to and was not set.
        """
        self._touch_where_the_base_does_not_fit(writer)
        top = root_level(self._geometry)
        root = self._base.root if self._base is not None and self._geometry.blocks else HOLE
        nodes: Iterator[tuple[int, bytearray]] = self._leaves.items()
        for level in range(top + 1):
            parents: dict[int, bytearray] = {}
            for index, ids in nodes:
                if level == 0 and writer.shuns:
                    _check_stored(writer, index, ids)
                node_id, data = encode_node(level, self._geometry.block_log2, ids)
                if node_id != HOLE:
                    writer.append_node(node_id, data)
                if level == top:
                    return node_id
                above = index >> FANOUT_LOG2
                if above not in parents:
                    parents[above] = self._inherited(level + 1, above)
                place = (index & FANOUT - 1) * ID_BYTES
                parents[above][place : place + ID_BYTES] = node_id
            nodes = iter(sorted(parents.items()))
        return root

    def _touch_where_the_base_does_not_fit(self, writer: SessionWriter) -> None:
        if self._base is None or not self._geometry.blocks:
            return
        if writer.shuns:  # every node must be looked at: what is not safely stored is stored again
            for first, _ in self._base.leaves():
                if first < self._geometry.blocks:
                    self._touch(first >> FANOUT_LOG2)
        shrunk = self._geometry.blocks < self._base.geometry.blocks
        if shrunk or root_level(self._geometry) != root_level(self._base.geometry):
            self._touch(0)
            self._touch((self._geometry.blocks - 1) >> FANOUT_LOG2)

    def _touch(self, leaf: int) -> bytearray:
        ids = self._leaves.get(leaf)
        if ids is None:
            ids = self._inherited(0, leaf)
            self._leaves.put(leaf, ids)
        return ids

    def _inherited(self, level: int, index: int) -> bytearray:
        """The base's ids of that node, cut at the end of the new disk and filled up with holes."""
        ids = self._base.children(level, index) if self._base is not None else b""
        covered = FANOUT_LOG2 * level
        existing = (self._geometry.blocks + (1 << covered) - 1 >> covered) - (index << FANOUT_LOG2)
        return bytearray(ids[: max(0, existing) * ID_BYTES].ljust(_NODE_BYTES, b"\0"))


class _Leaves:
    """Touched leaves by number: the latest in memory, older ones in an unlinked sparse file."""

    def __init__(self, scratch: Path | None) -> None:
        self._scratch = scratch
        self._held: dict[int, bytearray] = {}
        self._spilled: set[int] = set()
        self._file: int | None = None

    def get(self, leaf: int) -> bytearray | None:
        ids = self._held.get(leaf)
        if ids is None and leaf in self._spilled:
            ids = self._load(leaf)
            self.put(leaf, ids)
        return ids

    def put(self, leaf: int, ids: bytearray) -> None:
        if len(self._held) >= _LEAVES_IN_MEMORY:
            self._spill()
        self._held[leaf] = ids

    def items(self) -> Iterator[tuple[int, bytearray]]:
        for leaf in sorted(self._held.keys() | self._spilled):
            yield leaf, self._held[leaf] if leaf in self._held else self._load(leaf)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _spill(self) -> None:
        if self._file is None:
            fd, path = tempfile.mkstemp(prefix="holdfast-tree-", dir=self._scratch)
            Path(path).unlink()
            self._file = fd
        oldest = next(iter(self._held))
        write_at(self._file, oldest * _NODE_BYTES, self._held.pop(oldest))
        self._spilled.add(oldest)

    def _load(self, leaf: int) -> bytearray:
        if self._file is None:
            raise ValueError("the tree builder is closed")
        return bytearray(os.pread(self._file, _NODE_BYTES, leaf * _NODE_BYTES))


def _check_stored(writer: SessionWriter, leaf: int, ids: bytearray) -> None:
    missing = writer.missing([BlockId(bytes(ids[place : place + ID_BYTES])) for place in range(0, len(ids), ID_BYTES)])
    if any(missing):
        raise ObjectMissing(name=f"block {(leaf << FANOUT_LOG2) + missing.index(True)} of the base point")
