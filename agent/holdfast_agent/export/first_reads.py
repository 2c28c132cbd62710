"""When a small read gets a part of a block, and when the whole block: as who rents until that costs as much as buying.

A guest that boots reads here and there. To prove a block by its id all of it must be decoded and hashed, and what is
kept takes memory that the kernel must clear first: several times the work of a read of 4 KiB. So for the first reads of
a block its key's word is enough (:func:`~holdfast_agent.sealing.records.part_of_pieces`), and no more than they need is
decoded; who is asked again and again gets the block, proved and kept. That never costs twice as much as knowing before.
"""

from __future__ import annotations

from collections import OrderedDict

from holdfast_agent.model.ids import BlockId

SMALL_BYTES = 64 << 10
"""Larger reads are of somebody who copies."""

_PARTS = 4
"""So many cost as much as a whole block that is kept."""

_MOST_BLOCKS = 1 << 15


class FirstReads:
    """The blocks of which parts were read last. Thread-safe: a read that is not counted changes nothing but time."""

    def __init__(self) -> None:
        self._reads: OrderedDict[BlockId, int] = OrderedDict()

    def take_part(self, block_id: BlockId) -> bool:
        """Somebody wants a small part of a block that is not in memory: whether to give that alone."""
        reads = self._reads[block_id] = self._reads.get(block_id, 0) + 1
        if len(self._reads) > _MOST_BLOCKS:
            self._reads.popitem(last=False)
        if reads <= _PARTS:
            return True
        self._reads.pop(block_id, None)
        return False
