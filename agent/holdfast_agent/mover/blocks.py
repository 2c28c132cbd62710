"""The work on blocks that a source's workers do: read, test for zeros, name, compress and seal."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import NamedTuple

from blake3 import blake3

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId
from holdfast_agent.model.rules import Compression
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.sealing.records import Pieces, RecordKind, seal_record

from .stages import StageClock


class Block(NamedTuple):
    """A block that was read. ``buffer`` belongs to it until it is given back.

    ``settled``: whether its id is all that anybody wants of it; then the buffer holds something else.
    """

    number: int
    id: BlockId
    buffer: bytearray
    settled: bool


Settled = Callable[[int, BlockId], bool]
"""Whether the id alone of the block with this number settles what becomes of it. Called by workers: thread-safe."""


class BlockWork:
    """Thread-safe: holds constants, and for each thread a buffer of its own.

    A thread reads into its own buffer, and parts with it only for a block whose content is wanted. Where few are, the
    buffer stays in the core's cache, from which reading and naming are a fifth quicker.
    """

    def __init__(
        self, disk: ReadableDisk, geometry: Geometry, keys: DataKeys, source: StageClock, proxy: StageClock
    ) -> None:
        self._disk = disk
        self._geometry = geometry
        self._keys = keys
        self._source = source
        self._proxy = proxy
        self._zero = bytes(geometry.block_bytes)
        self._own = threading.local()

    def read(self, first: int, buffers: list[bytearray], settled: Settled) -> list[Block]:
        """Read consecutive blocks, as many as there are buffers, all of which leave with them.

        Zero blocks have the id HOLE. Raises errors of the disk.
        """
        own: bytearray = getattr(self._own, "buffer", None) or bytearray(self._geometry.block_bytes)
        blocks = []
        for number, buffer in enumerate(buffers, first):
            block_id = self._read_one(number, own)
            if settled(number, block_id):
                blocks.append(Block(number, block_id, buffer, True))
            else:
                blocks.append(Block(number, block_id, own, False))
                own = buffer
        self._own.buffer = own
        return blocks

    def seal(self, block: Block, compression: Compression) -> Pieces:
        """The record of a block; its buffer is free afterwards. Raises :class:`BlockNotVerified`."""
        with self._proxy:
            return seal_record(RecordKind.DATA, block.buffer, block.id, self._keys, compression)

    def _read_one(self, number: int, buffer: bytearray) -> BlockId:
        extent = self._geometry.extent(number)
        with self._source:
            self._disk.read_into(extent.start, memoryview(buffer)[: extent.length])
        with self._proxy:
            if extent.length < len(buffer):
                buffer[extent.length :] = bytes(len(buffer) - extent.length)
            # bytearray against bytes is one memcmp; a memoryview would be compared item by item, a hundred times slower
            if buffer == self._zero:
                return HOLE
            return BlockId(blake3(buffer, key=self._keys.id_key).digest())


def by_id_alone(_number: int, _block_id: BlockId) -> bool:
    """See :data:`Settled`: for who compares blocks and does nothing else with them."""
    return True


class Buffers:
    """A fixed number of block buffers, made when first needed and used again and again. Main thread only."""

    def __init__(self, block_bytes: int, budget_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._unmade = max(2, math.floor(budget_bytes / block_bytes))
        self.total = self._unmade
        self._free: list[bytearray] = []

    @property
    def free(self) -> int:
        return self._unmade + len(self._free)

    def take(self, count: int) -> list[bytearray]:
        """``count`` buffers, no more than :attr:`free`."""
        taken = [self._free.pop() for _ in range(min(count, len(self._free)))]
        while len(taken) < count:
            taken.append(bytearray(self._block_bytes))
            self._unmade -= 1
        return taken

    def give_back(self, buffer: bytearray) -> None:
        self._free.append(buffer)
