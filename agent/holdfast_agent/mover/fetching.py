"""Bringing the blocks that a restore needs: pages of ids, records by their ids, and where each is written."""

from __future__ import annotations

from collections import deque

from holdfast_agent.errors import MalformedMessage
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.records import Pieces, parse_header

from .conversation import Done, Fetch, Ids, Run, WantIds, encode
from .differences import ToWrite
from .line import Peer
from .pages import IdPage
from .restore_work import RestoreWork
from .role import unexpected
from .stages import Tally
from .workers import Workers

WINDOW_BYTES = 48 << 20
"""Plain bytes of blocks that were asked for and are not yet written."""

_FETCH = 8


class Fetching:
    """Pages of ids are asked for ahead; a record that is on its way is asked for once, and written wherever it occurs.

    Order of writing is that of arrival. Main thread only.
    """

    def __init__(self, connection: Peer, workers: Workers, tally: Tally, geometry: Geometry, work: RestoreWork) -> None:
        self.done = False
        self.checked = 0
        self._connection = connection
        self._workers = workers
        self._tally = tally
        self._geometry = geometry
        self._work = work
        self._asked: int | None = None
        self._to_fetch: deque[BlockId] = deque()
        self._places: dict[BlockId, list[int]] = {}
        self._in_flight = 0
        self._window = max(2, WINDOW_BYTES >> geometry.block_log2)

    def pump(self, to_write: ToWrite) -> None:
        """Ask for what may be asked for now."""
        to_write.pump()
        while self._to_fetch and self._in_flight < self._window:
            count = min(_FETCH, len(self._to_fetch), self._window - self._in_flight)
            ids = [self._to_fetch.popleft() for _ in range(count)]
            self._in_flight += count
            self._connection.send(encode(Fetch()), ids)
        if self._to_fetch or self._asked is not None or self.done:
            return
        self._asked = to_write.wanted()
        if self._asked is not None:
            # The last records of one page and the ids of the next cross on the way; ids in both are fetched again.
            self._connection.send(encode(WantIds(self._asked)))
        elif not self._places and not self._workers.busy:
            self.done = True
            self._workers.submit(self._finished, self._work.finish)

    def page(self, message: Ids, payload: memoryview, to_write: ToWrite) -> None:
        """The page of ids that was asked for has come."""
        if message.first != self._asked:
            raise unexpected(message)
        self._asked = None
        to_write.page(IdPage.receive(message, payload, self._geometry))

    def want(self, block: int, block_id: BlockId) -> None:
        """A block that must be written."""
        places = self._places.get(block_id)
        if places is None:
            places = self._places[block_id] = []
            self._to_fetch.append(block_id)
        places.append(block)

    def want_zeros(self, run: Run) -> None:
        """Blocks that must become zeros."""
        self._workers.submit(self._zeroed, self._work.zeros, run)

    def announce(self, run: Run) -> None:
        """Blocks all of which will be wanted."""
        self._workers.submit(self._announced, self._work.reserve, run)

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

    def _announced(self, _nothing: None) -> None:
        """The space is there."""

    def _zeroed(self, length: int) -> None:
        self._tally.zero += length
        self._tally.processed += length
