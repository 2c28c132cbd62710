"""The target mover: stores what the source sends and builds the tree of the disk. Holds no keys, commits nothing."""

from __future__ import annotations

from functools import partial

from holdfast_agent.errors import ConnectionLost, RecordRejected, UsageError
from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.records import Pieces
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import BenchmarkSpec, MoverResult, Order, PackRef, TargetSpec

from .bench_store import NoStore, bench_store
from .conversation import (
    AnyMessage,
    BeginBackup,
    Done,
    Holes,
    Ids,
    Offer,
    Opened,
    Record,
    Run,
    Stored,
    Wanted,
    WantIds,
    encode,
)
from .line import Peer
from .role import ignore, unexpected
from .stages import Tally
from .store import Store
from .workers import Workers

_IDLE_S = 60.0


class Target:
    """See :class:`holdfast_agent.mover.role.Role`. One worker: the store's thread, fed in the order of arrival."""

    origin = ""

    def __init__(self, spec: TargetSpec | BenchmarkSpec, host: MoverHost) -> None:
        self.workers = Workers(1, "store")
        self.tally = Tally()
        self.result: MoverResult | None = None
        self.opened = False
        self._connection: Peer | None = None
        self._records = 0
        self._arrived: list[Pieces] = []  # since the last step; one task stores them all
        self._arrived_cost_bytes = 0
        self._done: Done | None = None
        self._store: Store | NoStore
        if isinstance(spec, BenchmarkSpec):
            self._store = bench_store(spec, host, self.tally.target)
        else:
            self._store = Store(spec, host, self.tally.target)
        self.workers.submit(self._is_open, self._store.open)

    def _is_open(self, _nothing: None) -> None:
        self.opened = True

    def connected(self, connection: Peer) -> None:
        """The source has proved itself."""
        self._connection = connection

    def begin(self, order: Order) -> None:
        raise UsageError(reason="a target mover takes its orders from the source mover")

    def change_rules(self, rules: TransferRules) -> None:
        """Nothing to do: the source obeys them for both."""

    def receive(self, message: AnyMessage, payload: memoryview, cost_bytes: int) -> None:
        store = self._store
        if isinstance(message, Record):
            self._records += 1
            self._arrived.append((message.head, payload))
            self._arrived_cost_bytes += cost_bytes
            return
        if isinstance(message, BeginBackup):
            self.tally.begin(message.geometry.size_bytes)
            self.workers.submit(self._begun, store.begin, message)
        elif isinstance(message, WantIds):
            self.workers.submit(self._page, store.page, message.first, message.blocks)
        elif isinstance(message, Offer):
            self.workers.submit(self._answer, self._look_up, message, payload)
        elif isinstance(message, Holes):
            self.workers.submit(ignore, store.holes, message.blocks)
        elif isinstance(message, Done):
            self._done = message
        else:
            raise unexpected(message)
        # Released in the store's turn, so that what waits for it counts against the source's credit.
        self.workers.submit(self._release, int, cost_bytes)

    def pump(self) -> float:
        if self._arrived:
            self.workers.submit(self._appended, self._append, self._arrived, self._arrived_cost_bytes)
            self._arrived, self._arrived_cost_bytes = [], 0
        # Records on other streams may still be on their way when the last word has come.
        if self._done is not None and self._records >= self._done.records:
            self._peer.confirm()
            self.workers.submit(self._finished, self._store.finish, self._done)
            self._done = None
        return _IDLE_S

    def close(self, error: BaseException | None, timeout_s: float) -> bool:
        # By the store's own thread, after what it is doing now.
        broken = self._connection is not None and self._connection.broken  # also if it was stopped before it gave up
        keep = isinstance(error, (ConnectionLost, RecordRejected)) or (error is not None and broken)
        return self.workers.close(timeout_s, partial(self._store.close, keep))

    def _look_up(self, message: Offer, payload: memoryview) -> Wanted:
        return Wanted(message.number, self._store.offer(message, payload))

    def _append(self, records: list[Pieces], cost_bytes: int) -> tuple[int, int]:
        return sum(self._store.record(record) for record in records), cost_bytes

    def _begun(self, lost: tuple[Run, ...]) -> None:
        self._peer.send(encode(Opened(lost)))

    def _page(self, page: tuple[Ids, list[BlockId]]) -> None:
        self._peer.send(encode(page[0]), page[1])

    def _answer(self, wanted: Wanted) -> None:
        self._peer.send(encode(wanted))

    def _appended(self, stored: tuple[int, int]) -> None:
        self.tally.stored += stored[0]
        self._release(stored[1])

    def _release(self, cost_bytes: int) -> None:
        self._peer.release(cost_bytes)

    def _finished(self, stored: tuple[BlockId, list[PackRef]]) -> None:
        root, packs = stored
        self._peer.send(encode(Stored(root)))
        self.tally.end()
        self.result = MoverResult(root=None if isinstance(self._store, NoStore) else root, packs=tuple(packs))

    @property
    def _peer(self) -> Peer:
        if self._connection is None:
            raise UsageError(reason="nobody has connected")
        return self._connection
