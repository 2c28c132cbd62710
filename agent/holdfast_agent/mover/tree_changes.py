"""Where two trees of a disk differ: equal ids are equal content, so that what is equal is passed over unread.

Pure but for ``read``, which fetches nodes. Without a second tree everything that is no hole is a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.sealing.tree import FANOUT, FANOUT_LOG2, encode_node, root_level
from holdfast_agent.wire.specs import BlockTree

from .conversation import Run

ReadNodes = Callable[[Sequence[tuple[BlockId, int]]], list[bytes]]
"""For each (id, level) of a node the ids of its children, trailing holes cut off. Called with up to 2 × PAIRS."""

PAIRS = 32
_NODE_BYTES = FANOUT * ID_BYTES
_HOLES = bytes(_NODE_BYTES)


class Leaf(NamedTuple):
    """A leaf that is not in both trees: its ids in each, 256 of them, beginning with block ``first``."""

    first: int
    ids: bytes
    before: bytes

    def changes(self, end: int) -> Iterator[Run]:
        """Runs of blocks below ``end`` whose ids differ, ascending."""
        start: int | None = None
        count = min(FANOUT, end - self.first)
        for place in range(count):
            at = place * ID_BYTES
            if self.ids[at : at + ID_BYTES] == self.before[at : at + ID_BYTES]:
                if start is not None:
                    yield self.first + start, place - start
                start = None
            elif start is None:
                start = place
        if start is not None:
            yield self.first + start, count - start


class _Pair(NamedTuple):
    level: int
    number: int
    new: BlockId
    old: BlockId


def changed_leaves(tree: BlockTree, since: BlockTree | None, read: ReadNodes) -> Iterator[Leaf]:
    """Leaves of ``tree`` that differ from those of ``since``, ascending; holes on either side are leaves of holes.

    Both have the same block size; their disks may differ in size. Reads only nodes that differ, each once for each
    place, some tens of them at a time. Raises what ``read`` raises.
    """
    log2 = tree.geometry.block_log2
    top = root_level(tree.geometry)
    old = HOLE if since is None else since.root
    old_top = top if since is None else root_level(since.geometry)
    if since is not None and since.geometry.block_log2 != log2:
        raise ValueError("trees with different block sizes cannot be compared")
    raised: dict[BlockId, bytes] = {}
    highest = max(top, old_top)
    new = _raise(tree.root, top, highest, log2, raised)
    old = _raise(old, old_top, highest, log2, raised)
    pending = [_Pair(highest, 0, new, old)] if new != old else []
    while pending:
        pairs = [pending.pop()]
        while pending and len(pairs) < PAIRS and pending[-1].level == pairs[0].level:
            pairs.append(pending.pop())
        below: list[_Pair] = []
        for pair, ids, before in _children(pairs, read, raised):
            first = pair.number << FANOUT_LOG2
            if pair.level == 0:
                yield Leaf(first, ids, before)
                continue
            for place in range(FANOUT):
                at = slice(place * ID_BYTES, (place + 1) * ID_BYTES)
                if ids[at] != before[at]:
                    below.append(_Pair(pair.level - 1, first + place, BlockId(ids[at]), BlockId(before[at])))
        pending += reversed(below)


def leaf_at(tree: BlockTree, block: int, read: ReadNodes) -> bytes:
    """The 256 ids of the leaf that ``block`` is in, holes included. Raises what ``read`` raises."""
    node = tree.root
    for level in range(root_level(tree.geometry), -1, -1):
        if node == HOLE:
            return _HOLES
        ids = read([(node, level)])[0].ljust(_NODE_BYTES, b"\0")
        place = (block >> FANOUT_LOG2 * level) & FANOUT - 1
        node = BlockId(ids[place * ID_BYTES : (place + 1) * ID_BYTES])
    return ids


def _raise(root: BlockId, level: int, highest: int, block_log2: int, raised: dict[BlockId, bytes]) -> BlockId:
    """The root as it would be if its disk were as large as the other's: nodes with one child, which nobody stores."""
    for above in range(level + 1, highest + 1):
        below = root
        root = encode_node(above, block_log2, below)[0]
        raised[root] = below
    return root


def _children(
    pairs: Sequence[_Pair], read: ReadNodes, raised: dict[BlockId, bytes]
) -> Iterator[tuple[_Pair, bytes, bytes]]:
    wanted = [(node, pair.level) for pair in pairs for node in (pair.new, pair.old)]
    fetched = [each for each in wanted if each[0] != HOLE and each[0] not in raised]
    found = dict(zip(fetched, read(fetched), strict=True)) if fetched else {}

    def ids_of(node: BlockId, level: int) -> bytes:
        if node == HOLE:
            return _HOLES
        return (raised[node] if node in raised else found[node, level]).ljust(_NODE_BYTES, b"\0")

    for pair in pairs:
        yield pair, ids_of(pair.new, pair.level), ids_of(pair.old, pair.level)
