"""The ids of a disk's blocks, read from its tree as they are needed: opening a disk of any size costs one node."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.mover.tree_changes import ReadNodes
from holdfast_agent.sealing.tree import FANOUT, FANOUT_LOG2, root_level
from holdfast_agent.wire.specs import BlockTree

MOST_NODES = 4096
"""In memory: 32 MiB, the leaves of one TiB of data in blocks of 1 MiB."""

_HOLES = bytes(FANOUT * ID_BYTES)


class TreeIds:
    """Thread-safe. ``read`` blocks, and gives proved nodes or raises."""

    def __init__(self, tree: BlockTree, read: ReadNodes) -> None:
        self.geometry = tree.geometry
        self._root = tree.root
        self._top = root_level(tree.geometry)
        self._read = read
        self._lock = threading.Lock()
        self._nodes: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def at_hand(self, block: int) -> BlockId | None:
        """The id of a block if its leaf is in memory; never waits."""
        ids = self._nodes.get((0, block >> FANOUT_LOG2))
        return None if ids is None else _id_in(ids, block & FANOUT - 1)

    def of(self, block: int) -> BlockId:
        """The id of a block. Raises what ``read`` raises."""
        return _id_in(self._node(0, block >> FANOUT_LOG2), block & FANOUT - 1)

    def runs(self, first: int, end: int) -> Iterator[tuple[int, bool]]:
        """(number of blocks, whether they are data) of ``[first, end)``, ascending; neighbours may be alike.

        What a whole subtree lacks costs nothing more than that subtree's parent.
        """
        while first < end:
            level, ids = self._lowest(first)
            place = (first >> FANOUT_LOG2 * level) & FANOUT - 1
            if level:  # all below this place are holes
                following = ((first >> FANOUT_LOG2 * level) + 1) << FANOUT_LOG2 * level
                yield min(following, end) - first, False
                first = min(following, end)
                continue
            stop = min(FANOUT, place + end - first)
            while place < stop:
                data, start = _id_in(ids, place) != HOLE, place
                while place < stop and (_id_in(ids, place) != HOLE) is data:
                    place += 1
                yield place - start, data
                first += place - start

    def _lowest(self, block: int) -> tuple[int, bytes]:
        """The lowest node above a block that is stored, or the lowest of all."""
        for level in range(self._top, -1, -1):
            ids = self._node(level, block >> FANOUT_LOG2 * (level + 1))
            if level and _id_in(ids, (block >> FANOUT_LOG2 * level) & FANOUT - 1) == HOLE:
                break
        return level, ids

    def _node(self, level: int, number: int) -> bytes:
        """The children's ids of a node, holes included."""
        with self._lock:
            ids = self._nodes.get((level, number))
            if ids is not None:
                self._nodes.move_to_end((level, number))
                return ids
        if level == self._top:
            node_id = self._root
        else:
            node_id = _id_in(self._node(level + 1, number >> FANOUT_LOG2), number & FANOUT - 1)
        ids = _HOLES if node_id == HOLE else self._read([(node_id, level)])[0].ljust(len(_HOLES), b"\0")
        with self._lock:
            self._nodes[level, number] = ids
            if len(self._nodes) > MOST_NODES:
                self._nodes.popitem(last=False)
        return ids


def _id_in(ids: bytes, place: int) -> BlockId:
    return BlockId(ids[place * ID_BYTES : (place + 1) * ID_BYTES])
