"""The writer mover: fetches a tree's records, proves each block by its id, and writes the disk (or only checks)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from holdfast_agent.channel.data_connection import DataConnection
from holdfast_agent.disks.disk import WritableDisk
from holdfast_agent.disks.open import open_target
from holdfast_agent.errors import MalformedMessage, ObjectDamaged, RestoredBlockWrong, UsageError
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.sealing.records import Pieces, parse_header, view_pieces
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import MoverResult, Order, RestoreOrder, WriterSpec

from .conversation import (
    PAGE_BLOCKS,
    AnyMessage,
    Done,
    Fetch,
    Ids,
    Opened,
    OpenTree,
    Record,
    Run,
    Stored,
    WantIds,
    encode,
)
from .pages import IdPage
from .role import unexpected
from .stages import StageClock, Tally
from .workers import Workers

WINDOW_BYTES = 48 << 20
"""Plain bytes of blocks that were asked for and are not yet written."""

_FETCH = 8
_IDLE_S = 60.0


class Writer:
    """See :class:`holdfast_agent.mover.role.Role`."""

    def __init__(self, spec: WriterSpec, host: MoverHost, connection: DataConnection) -> None:
        self.workers = Workers(host.workers, "writer")
        self.tally = Tally()
        self.result: MoverResult | None = None
        self._spec = spec
        self._host = host
        self._connection = connection
        self._disk: WritableDisk | None = None
        self._transfer: _Transfer | None = None

    def begin(self, order: Order) -> None:
        if not isinstance(order, RestoreOrder) or self._transfer is not None:
            raise UsageError(reason="a writer takes one restore order")
        if order.disk is not None:
            self._disk = open_target(
                order.disk,
                self._host,
                order.geometry.size_bytes,
                create=order.create,
                overwrite=order.overwrite,
                granted=order.access,
            )
        self.tally.begin(order.geometry.size_bytes)
        self._transfer = _Transfer(self._connection, self.workers, self.tally, self._spec.keys, order, self._disk)
        self._connection.send(encode(OpenTree(order.root, order.geometry)))

    def change_rules(self, rules: TransferRules) -> None:
        """Nothing to do: the reader obeys them for both."""

    def receive(self, message: AnyMessage, payload: memoryview, cost_bytes: int) -> None:
        if self._transfer is None:
            raise unexpected(message)
        if isinstance(message, Record):
            self._transfer.record((message.head, payload), cost_bytes)
            return
        self._connection.release(cost_bytes)
        if isinstance(message, Opened):
            self._transfer.opened = True
        elif isinstance(message, Ids):
            self._transfer.page(message, payload)
        elif isinstance(message, Stored) and self._transfer.done:
            self.tally.end()
            self.result = MoverResult(blocks_checked=self._transfer.checked)
        else:
            raise unexpected(message)

    def pump(self) -> float:
        if self._transfer is not None and self._transfer.opened:
            self._transfer.pump()
        return _IDLE_S

    def close(self, error: BaseException | None, timeout_s: float) -> bool:
        ended = self.workers.close(timeout_s)
        if ended and self._disk is not None:
            self._disk.abort()  # does nothing if the disk was finished
        return ended


class _Transfer:
    """Pages of ids are asked for ahead; within a page each distinct record is fetched once and written wherever it
    occurs. Order of writing is that of arrival."""

    def __init__(
        self,
        connection: DataConnection,
        workers: Workers,
        tally: Tally,
        keys: DataKeys,
        order: RestoreOrder,
        disk: WritableDisk | None,
    ) -> None:
        self.opened = False
        self.done = False
        self.checked = 0
        self._connection = connection
        self._workers = workers
        self._tally = tally
        self._geometry = order.geometry
        self._work = RestoreWork(keys, order.geometry, disk, tally.proxy, tally.target)
        self._next_page = 0
        self._page_asked = False
        self._wanted: Iterator[BlockId] = iter(())
        self._to_fetch: deque[BlockId] = deque()
        self._places: dict[BlockId, list[int]] = {}
        self._in_flight = 0
        self._window = max(2, WINDOW_BYTES >> order.geometry.block_log2)

    def pump(self) -> None:
        """Ask for what may be asked for now."""
        while self._to_fetch and self._in_flight < self._window:
            count = min(_FETCH, len(self._to_fetch), self._window - self._in_flight)
            ids = [self._to_fetch.popleft() for _ in range(count)]
            self._in_flight += count
            self._connection.send(encode(Fetch()), ids)
        if self._to_fetch or self._page_asked or self.done:
            return
        if self._next_page < self._geometry.blocks:
            # The last records of one page and the ids of the next cross on the way; ids in both are fetched again.
            self._page_asked = True
            self._connection.send(encode(WantIds(self._next_page)))
        elif not self._places and not self._workers.busy:
            self.done = True
            self._workers.submit(self._finished, self._work.finish)

    def page(self, message: Ids, payload: memoryview) -> None:
        """The ids of the next page have come."""
        if not self._page_asked or message.first != self._next_page:
            raise unexpected(message)
        page = IdPage.receive(message, payload, self._geometry)
        end = min(self._next_page + PAGE_BLOCKS, self._geometry.blocks)
        following = self._next_page
        for first, count in page.data:
            self._zeros(following, first)
            following = first + count
        self._zeros(following, end)
        for block in page.data_blocks(self._next_page, end):
            block_id = page[block]
            places = self._places.get(block_id)
            if places is None:
                places = self._places[block_id] = []
                self._to_fetch.append(block_id)
            places.append(block)
        self._page_asked = False
        self._next_page += PAGE_BLOCKS

    def record(self, record: Pieces, cost_bytes: int) -> None:
        """A record that was asked for has come."""
        block_id = parse_header(record[0]).id
        places = self._places.pop(block_id, None)
        if places is None:
            raise MalformedMessage(peer="the other mover", reason="a record that was not asked for")
        self._tally.transferred += cost_bytes
        self._workers.submit(self._written, self._work.restore, record, block_id, places, cost_bytes)

    def _finished(self, _nothing: None) -> None:
        self._connection.send(encode(Done()))

    def _written(self, written: tuple[int, int, int]) -> None:
        blocks, plain_bytes, cost_bytes = written
        self._in_flight -= 1
        self.checked += blocks
        self._tally.processed += plain_bytes
        self._tally.sent += plain_bytes
        self._connection.release(cost_bytes)

    def _zeros(self, first: int, end: int) -> None:
        if end <= first:
            return
        self._workers.submit(self._zeroed, self._work.zeros, (first, end - first))

    def _zeroed(self, length: int) -> None:
        self._tally.zero += length
        self._tally.processed += length


class RestoreWork:
    """The work of a writer's threads. Thread-safe: holds constants only."""

    def __init__(
        self, keys: DataKeys, geometry: Geometry, disk: WritableDisk | None, proxy: StageClock, target: StageClock
    ) -> None:
        self._keys = keys
        self._geometry = geometry
        self._disk = disk
        self._proxy = proxy
        self._target = target

    def restore(self, record: Pieces, block_id: BlockId, places: list[int], cost_bytes: int) -> tuple[int, int, int]:
        """Open a record, prove it, write it wherever it belongs: (blocks, bytes of the disk, cost of the message).

        Raises :class:`RestoredBlockWrong`, :class:`WrongKey`, :class:`FormatUnsupported`, :class:`DiskUnwritable`.
        """
        with self._proxy:
            try:
                plain = view_pieces(record, self._keys, block_id)
            except ObjectDamaged as error:
                raise self._wrong(places[0]) from error
            if len(plain) != self._geometry.block_bytes:
                raise self._wrong(places[0])
        total = 0
        with self._target:
            for block in places:
                extent = self._geometry.extent(block)
                if self._disk is not None:
                    self._disk.write(extent.start, memoryview(plain)[: extent.length])
                total += extent.length
        return len(places), total, cost_bytes

    def zeros(self, run: Run) -> int:
        """Make a run of blocks zeros; the bytes of the disk that it covers."""
        start = run[0] << self._geometry.block_log2
        length = self._geometry.extent(sum(run) - 1).end - start
        if self._disk is not None:
            with self._target:
                self._disk.write_zeros(start, length)
        return length

    def finish(self) -> None:
        """All is written: make it durable and visible."""
        if self._disk is not None:
            with self._target:
                self._disk.finish()

    def _wrong(self, block: int) -> RestoredBlockWrong:
        return RestoredBlockWrong(block=block, disk=self._disk.url if self._disk is not None else "the restore point")
