"""A restore point of another repository as a disk: what a copy reads. Every block is proved by its id first.

Ids come from the point's tree, nodes hashed from a root that a MAC vouches for; blocks are fetched ahead of their
reading, in the order in which the source reads them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice

import msgspec

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.errors import UsageError
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.sealing.records import Pieces
from holdfast_agent.sealing.tree import FANOUT, FANOUT_LOG2
from holdfast_agent.wire.specs import BackupOrder, BlockTree, OriginDisk

from .conversation import Run
from .fetcher import Fetcher
from .tree_changes import changed_leaves, leaf_at
from .whole import whole_block, whole_nodes

WINDOW_BYTES = 32 << 20
"""Plain bytes of blocks that were asked for and are not yet read."""

_ASK_AT_ONCE = 8


def open_point(order: BackupOrder, keys: DataKeys, fetcher: Fetcher) -> tuple[PointDisk, BackupOrder]:
    """The disk that ``order`` names as its origin, and the order with the extents that its mode needs.

    Called in a worker: it walks the trees, and waits. Raises :class:`OriginDamaged`, and what the fetcher raises.
    """
    if order.origin is None:
        raise UsageError(reason="the order names no restore point")
    disk = PointDisk(order.origin, order.geometry, keys, fetcher)
    if order.mode is not ChangeMode.CBT:
        disk.learn(None)
    elif order.extents is None:
        changes = disk.learn(order.origin.since)
        order = msgspec.structs.replace(order, extents=tuple(_extents(changes, order.geometry)))
    return disk, order


class PointDisk:
    """See :class:`holdfast_agent.disks.disk.ReadableDisk`. The fetcher is its owner's to close."""

    def __init__(self, disk: OriginDisk, geometry: Geometry, keys: DataKeys, fetcher: Fetcher) -> None:
        self.url = disk.name
        self.size_bytes = geometry.size_bytes
        self._geometry = geometry
        self._tree = BlockTree(disk.root, geometry)
        self._keys = keys
        self._fetcher = fetcher
        self._lock = threading.Lock()  # of the leaves and of what is read ahead
        self._leaves: dict[int, bytes] = {}
        self._data: list[Run] = []
        self._runs: list[Run] = []
        self._expected: Iterator[int] = iter(())
        self._ahead: dict[int, Future[Pieces]] = {}
        self._window = max(_ASK_AT_ONCE, WINDOW_BYTES >> geometry.block_log2)

    def learn(self, since: BlockTree | None) -> list[Run]:
        """Walk the tree: runs of blocks that differ from ``since`` (None: that are data), which are read ahead."""
        runs: list[Run] = []
        for leaf in changed_leaves(self._tree, since, self._read_nodes):
            if leaf.first < self._geometry.blocks:
                self._leaves[leaf.first >> FANOUT_LOG2] = leaf.ids
                runs += leaf.changes(self._geometry.blocks)
        if since is None:
            self._data = runs
        self.expect(runs)
        return runs

    def expect(self, runs: Iterable[Run]) -> None:
        """Read these blocks ahead, too, all of them ascending; before the first is read."""
        self._runs = sorted([*self._runs, *runs])
        self._expected = _blocks(self._runs, self._geometry.blocks)

    def extents(self) -> Iterator[DiskExtent]:
        following = 0
        for extent in _extents(self._data, self._geometry):
            if extent.start > following:
                yield DiskExtent(following, extent.start - following, False)
            yield DiskExtent(extent.start, extent.length, True)
            following = extent.end
        if following < self.size_bytes:
            yield DiskExtent(following, self.size_bytes - following, False)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            block, inside = divmod(offset + done, self._geometry.block_bytes)
            length = min(len(buffer) - done, self._geometry.block_bytes - inside)
            buffer[done : done + length] = memoryview(self._block(block))[inside : inside + length]
            done += length

    def close(self) -> None:
        """Nothing is held but memory."""
        self._ahead.clear()
        self._leaves.clear()

    def _block(self, block: int) -> bytes:
        with self._lock:
            block_id = self._id_of(block)
            record = self._ahead.pop(block, None)
            self._read_ahead()
        if block_id == HOLE:
            return bytes(self._geometry.block_bytes)
        return whole_block(self._fetcher, self._keys, block_id, self._geometry, (block, self.url), record)

    def _read_ahead(self) -> None:
        """Ask for what will be read next, some blocks at a time, so that the reader reads them together."""
        while len(self._ahead) <= self._window - _ASK_AT_ONCE:
            blocks = list(islice(self._expected, _ASK_AT_ONCE))
            if not blocks:
                return
            wanted = {block: self._id_of(block) for block in blocks}
            data = [block for block, block_id in wanted.items() if block_id != HOLE]
            self._ahead.update(zip(data, self._fetcher.fetch([wanted[block] for block in data]), strict=True))

    def _id_of(self, block: int) -> BlockId:
        number = block >> FANOUT_LOG2
        leaf = self._leaves.get(number)
        if leaf is None:
            leaf = self._leaves[number] = leaf_at(self._tree, block, self._read_nodes)
        place = (block & FANOUT - 1) * ID_BYTES
        return BlockId(leaf[place : place + ID_BYTES])

    def _read_nodes(self, nodes: Sequence[tuple[BlockId, int]]) -> list[bytes]:
        return whole_nodes(self._fetcher, nodes, self._geometry, self.url)


def _blocks(runs: Iterable[Run], end: int) -> Iterator[int]:
    """The blocks of ascending runs below ``end``, each once."""
    following = 0
    for first, count in runs:
        yield from range(max(first, following), min(first + count, end))
        following = max(following, first + count)


def _extents(runs: Iterable[Run], geometry: Geometry) -> Iterator[Extent]:
    """Runs of blocks as extents, neighbours joined."""
    start = end = 0
    for first, count in runs:
        if first > end or not end:
            if end > start:
                yield _extent(start, end, geometry)
            start = first
        end = first + count
    if end > start:
        yield _extent(start, end, geometry)


def _extent(start: int, end: int, geometry: Geometry) -> Extent:
    offset = start << geometry.block_log2
    return Extent(offset, min(end << geometry.block_log2, geometry.size_bytes) - offset)
