"""Pages of ids as they travel: holes are left out, so that a sparse disk's tree costs by its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from holdfast_agent.errors import MalformedMessage
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId

from .conversation import LEAF_BLOCKS, PAGE_BLOCKS, Ids, Run, count_blocks

IdSource = Callable[[int], Iterator[BlockId]]
"""Ids of a tree from a block on, ascending, holes included (``TreeReader.ids``)."""


class IdPage:
    """Ids of ``blocks`` blocks from ``first`` on; those past the end of the tree are holes."""

    def __init__(self, first: int, data: tuple[Run, ...], payload: memoryview, blocks: int = PAGE_BLOCKS) -> None:
        self.first = first
        self.data = data
        self._flat = bytearray(blocks * ID_BYTES if data else 0)
        place = 0
        for start, count in data:
            at = (start - first) * ID_BYTES
            self._flat[at : at + count * ID_BYTES] = payload[place : place + count * ID_BYTES]
            place += count * ID_BYTES

    @classmethod
    def receive(cls, message: Ids, payload: memoryview, geometry: Geometry, blocks: int = PAGE_BLOCKS) -> IdPage:
        """Check a page of ``blocks`` blocks that came from the peer. Raises :class:`MalformedMessage`."""
        total = count_blocks(message.data, geometry)
        outside = message.data and (
            message.data[0][0] < message.first or sum(message.data[-1]) > message.first + blocks
        )
        if message.first % blocks or outside or len(payload) != total * ID_BYTES:
            raise MalformedMessage(peer="the other mover", reason="a page of ids that contradicts itself")
        return cls(message.first, message.data, payload, blocks)

    def __getitem__(self, block: int) -> BlockId:
        if not self._flat:
            return HOLE
        at = (block - self.first) * ID_BYTES
        return BlockId(bytes(self._flat[at : at + ID_BYTES]))

    def data_blocks(self, start: int, end: int) -> Iterator[int]:
        """Blocks of ``[start, end)`` that are no holes, ascending."""
        for first, count in self.data:
            yield from range(max(first, start), min(first + count, end))


class PageCutter:
    """Cuts the ids of a tree into pages. Asked in ascending order it reads each node once."""

    def __init__(self, blocks: int, ids_from: IdSource) -> None:
        self._blocks = blocks
        self._ids_from = ids_from
        self._next = 0
        self._ids: Iterator[BlockId] = iter(())

    def page(self, first: int, blocks: int = PAGE_BLOCKS) -> tuple[Ids, list[BlockId]]:
        """The message and the ids of its payload. Raises what reading the tree raises."""
        if blocks not in (LEAF_BLOCKS, PAGE_BLOCKS) or first < 0 or first % blocks:
            raise MalformedMessage(peer="the other mover", reason="a page that does not begin at a page's boundary")
        if first >= self._blocks:
            return Ids(first, ()), []
        if first != self._next or first == 0:
            self._ids = self._ids_from(first)
        self._next = first + blocks
        runs: list[Run] = []
        ids: list[BlockId] = []
        for block, block_id in enumerate(islice(self._ids, blocks), first):
            if block_id == HOLE:
                continue
            if runs and sum(runs[-1]) == block:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((block, 1))
            ids.append(block_id)
        return Ids(first, tuple(runs)), ids


class IdMap:
    """Ids of a whole disk by block, held by leaves of 256 that have data: memory by data, not by size."""

    def __init__(self) -> None:
        self._leaves: dict[int, bytearray] = {}

    def __setitem__(self, block: int, block_id: BlockId) -> None:
        leaf = self._leaves.get(block >> 8)
        if leaf is None:
            leaf = self._leaves[block >> 8] = bytearray(256 * ID_BYTES)
        at = (block & 255) * ID_BYTES
        leaf[at : at + ID_BYTES] = block_id

    def ids(self, blocks: int) -> Iterator[BlockId]:
        """Ids of blocks 0 … ``blocks`` − 1, holes included."""
        for number in range((blocks + 255) >> 8):
            leaf = self._leaves.get(number)
            count = min(256, blocks - (number << 8))
            for at in range(0, count * ID_BYTES, ID_BYTES):
                yield BlockId(bytes(leaf[at : at + ID_BYTES])) if leaf is not None else HOLE
