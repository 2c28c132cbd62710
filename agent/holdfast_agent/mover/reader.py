"""The reader mover: serves the ids and sealed records of one tree. Holds no keys."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import NamedTuple

from holdfast_agent.errors import MalformedMessage, RepositoryError, UsageError
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.repository.pins import pinned
from holdfast_agent.repository.readers import BlockReader
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.tree import TreeReader
from holdfast_agent.sealing.records import Pieces, split_record
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import MoverResult, Order, ReaderSpec

from .conversation import (
    MAX_FETCH,
    AnyMessage,
    Check,
    Done,
    Fetch,
    Ids,
    Opened,
    OpenTree,
    Stored,
    Unreadable,
    WantIds,
    encode,
    split_ids,
)
from .line import Peer
from .pages import PageCutter
from .records import send_record
from .role import tell_pressure, unexpected
from .stages import StageClock, Tally
from .store import open_repository
from .workers import Workers

_IDLE_S = 60.0
_AHEAD_BYTES = 32 << 20  # records read before the network takes them; no further request is begun beyond it


class Reader:
    """See :class:`holdfast_agent.mover.role.Role`. One worker: the only thread that touches the repository."""

    origin = ""

    def __init__(self, spec: ReaderSpec, host: MoverHost) -> None:
        self.workers = Workers(1, "shelf")
        self.tally = Tally()
        self.result: MoverResult | None = None
        self.opened = False
        self._connection: Peer | None = None
        self._rules = spec.rules
        self._shelf = _Shelf(spec, host, self.tally.source)
        self._requests: deque[tuple[Fetch | Check, list[BlockId], int]] = deque()
        self._reading = False
        self._ready: deque[Answer] = deque()
        self._ready_bytes = 0
        self._root: BlockId | None = None
        self._done = False
        self.workers.submit(self._is_open, self._shelf.open)

    def _is_open(self, _nothing: None) -> None:
        self.opened = True

    def connected(self, connection: Peer) -> None:
        """The writer has proved itself."""
        self._connection = connection
        connection.limit(self._rules.bandwidth_bytes_per_s)

    def begin(self, order: Order) -> None:
        raise UsageError(reason="a reader mover takes its orders from the writer mover")

    def change_rules(self, rules: TransferRules) -> None:
        self._rules = rules
        if self._connection is not None:
            self._connection.limit(rules.bandwidth_bytes_per_s)

    def receive(self, message: AnyMessage, payload: memoryview, cost_bytes: int) -> None:
        if isinstance(message, (Fetch, Check)):
            ids = split_ids(payload, len(payload) // ID_BYTES, MAX_FETCH)
            self._requests.append((message, ids, cost_bytes))
            return
        if isinstance(message, OpenTree) and self._root is None:
            self._root = message.root
            self.tally.begin(message.geometry.size_bytes)
            self.workers.submit(self._tree_open, self._shelf.open_tree, message)
        elif isinstance(message, WantIds) and self._root is not None:
            self.workers.submit(self._page, self._shelf.page, message.first, message.blocks)
        elif isinstance(message, Done):
            self._done = True
        else:
            raise unexpected(message)
        self._peer.release(cost_bytes)

    def pump(self) -> float:
        if self._requests and not self._reading and self._ready_bytes < _AHEAD_BYTES:
            request, ids, cost_bytes = self._requests.popleft()
            self._reading = True
            self._peer.release(cost_bytes)
            if isinstance(request, Check):
                self.workers.submit(self._read, self._shelf.check, ids, request.refused)
            else:
                self.workers.submit(self._read, self._shelf.read, ids)
        self._send_ready()
        if self._done and not (self._requests or self._reading or self._ready or self.workers.busy):
            self._peer.send(encode(Stored(self._root or HOLE)))
            self.tally.end()
            self.result = MoverResult(root=self._root)
        return _IDLE_S

    def close(self, error: BaseException | None, timeout_s: float) -> bool:
        return self.workers.close(timeout_s, self._shelf.close)

    def _tree_open(self, _nothing: None) -> None:
        self._peer.send(encode(Opened()))

    def _page(self, page: tuple[Ids, list[BlockId]]) -> None:
        self._peer.send(encode(page[0]), page[1])

    def _read(self, answers: list[Answer]) -> None:
        self._reading = False
        self._ready.extend(answers)
        self._ready_bytes += sum(answer.size_bytes for answer in answers)

    def _send_ready(self) -> None:
        while self._ready and self._peer.writable:
            answer = self._ready.popleft()
            self._ready_bytes -= answer.size_bytes
            self._send(answer)
        tell_pressure(self.tally, self._peer, self._rules, bool(self._ready))

    def _send(self, answer: Answer) -> None:
        if answer.record is not None:
            send_record(self._peer, answer.record)
        else:
            self._peer.send(encode(Unreadable(answer.reason)), [answer.id], spread=True)

    @property
    def _peer(self) -> Peer:
        if self._connection is None:
            raise UsageError(reason="nobody has connected")
        return self._connection


class Answer(NamedTuple):
    """What goes back for one id: its record, or why there is none."""

    id: BlockId
    record: Pieces | None
    reason: str = ""

    @property
    def size_bytes(self) -> int:
        return len(self.record[1]) if self.record is not None else ID_BYTES


class _Shelf:
    """The repository as the reader's worker uses it."""

    def __init__(self, spec: ReaderSpec, host: MoverHost, clock: StageClock) -> None:
        self._spec = spec
        self._host = host
        self._clock = clock
        self._repository: Repository | None = None
        self._pin = ExitStack()
        self._reader: BlockReader | None = None
        self._pages: PageCutter | None = None

    def open(self) -> None:
        self._repository = open_repository(self._spec.repository, self._host)
        self._pin.enter_context(pinned(self._repository))
        self._reader = self._repository.reader()

    def open_tree(self, message: OpenTree) -> None:
        if self._reader is None:
            raise UsageError(reason="the repository is not open")
        tree = TreeReader(self._reader, message.root, message.geometry)
        self._pages = PageCutter(message.geometry.blocks, tree.ids)

    def page(self, first: int, blocks: int) -> tuple[Ids, list[BlockId]]:
        if self._pages is None:
            raise MalformedMessage(peer="the other mover", reason="no tree is open")
        with self._clock:
            return self._pages.page(first, blocks)

    def read(self, ids: list[BlockId]) -> list[Answer]:
        if self._reader is None:
            raise UsageError(reason="the repository is not open")
        with self._clock:
            return [Answer(record_id, split_record(record)) for record_id, record in self._reader.read_many(ids)]

    def check(self, ids: list[BlockId], refused: int) -> list[Answer]:
        if self._reader is None:
            raise UsageError(reason="the repository is not open")
        with self._clock:
            read = self._reader.read_other_each(ids, refused) if refused else self._reader.read_each(ids)
            return [
                Answer(record_id, None, record.text)
                if isinstance(record, RepositoryError)
                else Answer(record_id, split_record(record))
                for record_id, record in read
            ]

    def close(self) -> None:
        self._pin.close()
        if self._repository is not None:
            self._repository.close()
