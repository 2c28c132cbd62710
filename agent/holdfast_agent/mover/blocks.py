"""The work on blocks that a source's workers do: read, test for zeros, name, compress and seal."""

from __future__ import annotations

import math
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
    """A block that was read. ``buffer`` belongs to it until it is given back."""

    number: int
    id: BlockId
    buffer: bytearray


class BlockWork:
    """Thread-safe: holds constants only; each call works on buffers that are its own."""

    def __init__(
        self, disk: ReadableDisk, geometry: Geometry, keys: DataKeys, source: StageClock, proxy: StageClock
    ) -> None:
        self._disk = disk
        self._geometry = geometry
        self._keys = keys
        self._source = source
        self._proxy = proxy
        self._zero = bytes(geometry.block_bytes)

    def read(self, first: int, buffers: list[bytearray]) -> list[Block]:
        """Read consecutive blocks, one to a buffer; zero blocks have the id HOLE. Raises errors of the disk."""
        return [self._read_one(number, buffer) for number, buffer in enumerate(buffers, first)]

    def seal(self, block: Block, compression: Compression) -> Pieces:
        """The record of a block; its buffer is free afterwards. Raises :class:`BlockNotVerified`."""
        with self._proxy:
            return seal_record(RecordKind.DATA, block.buffer, block.id, self._keys, compression)

    def _read_one(self, number: int, buffer: bytearray) -> Block:
        extent = self._geometry.extent(number)
        with self._source:
            self._disk.read_into(extent.start, memoryview(buffer)[: extent.length])
        with self._proxy:
            if extent.length < len(buffer):
                buffer[extent.length :] = bytes(len(buffer) - extent.length)
            # bytearray against bytes is one memcmp; a memoryview would be compared item by item, a hundred times slower
            if buffer == self._zero:
                return Block(number, HOLE, buffer)
            return Block(number, BlockId(blake3(buffer, key=self._keys.id_key).digest()), buffer)


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
