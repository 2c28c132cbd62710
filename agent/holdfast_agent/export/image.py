"""What the server serves: one disk of a restore point, read as clients ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from holdfast_agent.disks.nbd import protocol
from holdfast_agent.errors import ObjectDamaged, WrongKey
from holdfast_agent.model.ids import HOLE as NO_BLOCK
from holdfast_agent.model.ids import BlockId
from holdfast_agent.mover.whole import Records, part_of_block, whole_block, whole_nodes
from holdfast_agent.sealing.keys import Cipher, DataKeys
from holdfast_agent.sealing.records import part_of_pieces
from holdfast_agent.wire.specs import ExportDisk

from .cache import BlockCache
from .first_reads import SMALL_BYTES, FirstReads
from .readahead import ReadAhead
from .records import Near
from .tree import TreeIds

Part = memoryview | int
"""Consecutive bytes of a disk; a number: so many zeros."""

DATA = 0
HOLE = protocol.STATE_HOLE | protocol.STATE_ZERO


class Run(NamedTuple):
    """``length`` bytes that are alike, with the flags of base:allocation."""

    length: int
    state: int


class Image(Protocol):
    """Thread-safe. Ranges lie inside the disk and are not empty. ``preferred_bytes``: what reads best at a time."""

    name: str
    size_bytes: int
    preferred_bytes: int
    writable: bool

    def course(self) -> ReadAhead:
        """For a new client."""

    def at_hand(self, offset: int, length: int) -> list[Part] | None:
        """The bytes, if they can be had at once; never waits."""

    def read(self, offset: int, length: int) -> list[Part]:
        """The bytes; blocks. Raises :class:`HoldfastError`, OSError."""

    def waits_for_read(self, offset: int, length: int) -> bool:
        """Whether :meth:`read` may take longer than it takes to wake another thread for it."""

    def read_ahead(self, course: ReadAhead, offset: int, length: int) -> None:
        """The client is asking for this range: begin to fetch what it will probably ask for next. Never waits."""

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Which parts of a range are data, ascending. Blocks. Raises as :meth:`read`."""


@runtime_checkable
class WritableImage(Image, Protocol):
    """An image that remembers what is written. What several clients write at once to one place is there whole from one
    of them or the other, byte by byte."""

    def write(self, offset: int, data: memoryview) -> None:
        """From now on this range reads as ``data``; durable after the next :meth:`flush`. Raises as :meth:`read`."""

    def zero(self, offset: int, length: int, *, keep_space: bool, fast: bool) -> None:
        """From now on this range reads as zeros. ``keep_space``: later writes there must not lack space. ``fast``:
        rather raise OSError(ENOTSUP) than write zeros one by one."""

    def flush(self) -> None:
        """When this returns, all that was written before it was called is durable. Raises OSError; then nothing that
        is not known to be durable is ever called so again."""

    def waits_for_write(self, offset: int, length: int) -> bool:
        """Whether :meth:`write` would have to fetch something first."""


class PointImage:
    """A disk of a restore point: see :class:`Image`. Never writable; its bytes never change."""

    writable = False

    def __init__(
        self,
        disk: ExportDisk,
        records: Records,
        keys: DataKeys,
        cache: BlockCache,
        near: Near | None = None,
    ) -> None:
        """``near``: for small reads of records that are on this host."""
        self.name = disk.name
        self.geometry = disk.tree.geometry
        self.size_bytes = self.geometry.size_bytes
        self.preferred_bytes = self.geometry.block_bytes
        self._records = records
        self._keys = keys
        self._cache = cache
        self._near = near if keys.cipher != Cipher.NONE else None
        self._first_reads = FirstReads()
        self._ids = TreeIds(disk.tree, self._read_nodes)

    def course(self) -> ReadAhead:
        return ReadAhead(self.geometry.block_bytes)

    def open(self) -> None:
        """See that the disk is there: its root is read and proved. Raises as :meth:`read`."""
        if self.size_bytes:
            self._ids.of(0)

    def at_hand(self, offset: int, length: int) -> list[Part] | None:
        parts: list[Part] = []
        for block, inside, count in self._pieces(offset, length):
            block_id = self._ids.at_hand(block)
            if block_id is None:
                return None
            if block_id == NO_BLOCK:
                parts.append(count)
                continue
            plain = self._cache.peek(block_id)
            if plain is None:
                return None
            parts.append(memoryview(plain)[inside : inside + count])
        return parts

    def waits_for_read(self, offset: int, length: int) -> bool:
        return self._near is None or length > SMALL_BYTES

    def read(self, offset: int, length: int) -> list[Part]:
        if self._near is not None and length <= SMALL_BYTES:
            return [self._small_part(self._near, *piece) for piece in self._pieces(offset, length)]
        wanted = [(self._ids.of(block), block, inside, count) for block, inside, count in self._pieces(offset, length)]
        coming = [
            None if block_id == NO_BLOCK else self._cache.get(block_id, self._load(block_id, block))
            for block_id, block, _, _ in wanted
        ]
        return [
            count if future is None else memoryview(future.result())[inside : inside + count]
            for (_, _, inside, count), future in zip(wanted, coming, strict=True)
        ]

    def begin(self, offset: int, length: int) -> None:
        """Begin to fetch a range that is going to be read, unless that is begun soon enough then."""
        if not self.waits_for_read(offset, length):
            return
        for block, _, _ in self._pieces(offset, length):
            block_id = self._ids.of(block)
            if block_id != NO_BLOCK:
                self._cache.get(block_id, self._load(block_id, block))

    def read_ahead(self, course: ReadAhead, offset: int, length: int) -> None:
        log2 = self.geometry.block_log2
        for block in course.after(offset >> log2, (offset + length - 1) >> log2):
            block_id = self._ids.at_hand(block) if block < self.geometry.blocks else None
            if block_id is None or self._cache.room(self.geometry.block_bytes) <= 0:
                return
            if block_id != NO_BLOCK:
                self._cache.get(block_id, self._load(block_id, block))

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        log2, end = self.geometry.block_log2, offset + length
        block = offset >> log2
        for count, data in self._ids.runs(block, (end - 1 >> log2) + 1):
            block += count
            stop = min(block << log2, end)
            yield Run(stop - offset, DATA if data else HOLE)
            offset = stop

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(block, first byte in it, number of bytes) of a range."""
        while length:
            block, inside = divmod(offset, self.geometry.block_bytes)
            count = min(length, self.geometry.block_bytes - inside)
            yield block, inside, count
            offset += count
            length -= count

    def _small_part(self, near: Near, block: int, inside: int, count: int) -> Part:
        block_id = self._ids.of(block)
        if block_id == NO_BLOCK:
            return count
        plain = self._cache.peek(block_id)
        if plain is None and self._first_reads.take_part(block_id):
            return memoryview(self._first_part(near, block_id, block, inside, inside + count))
        if plain is None:
            plain = self._cache.get(block_id, self._load(block_id, block)).result()
        return memoryview(plain)[inside : inside + count]

    def _first_part(self, near: Near, block_id: BlockId, block: int, start: int, end: int) -> bytes:
        """Bytes of a block by the word of who sealed it: from its first home if that is whole, as nearly all are."""
        if (sealed := near.read(block_id)) is not None:
            with suppress(ObjectDamaged, WrongKey):
                return part_of_pieces(sealed, self._keys, block_id, start, end)
            near.forget(block_id)
        return part_of_block(self._records, self._keys, block_id, start, end, (block, self.name))

    def _load(self, block_id: BlockId, block: int) -> partial[bytes]:
        return partial(whole_block, self._records, self._keys, block_id, self.geometry, (block, self.name))

    def _read_nodes(self, nodes: Sequence[tuple[BlockId, int]]) -> list[bytes]:
        return whole_nodes(self._records, nodes, self.geometry, self.name)
