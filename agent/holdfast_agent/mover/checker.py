"""The checker mover: walks many trees from their roots and proves every distinct record of them once, level 2.

It holds the keys and trusts the repository in nothing: nodes are hashed, blocks are opened and their ids computed anew.
"""

from __future__ import annotations

import random
import time
from collections import deque
from typing import NamedTuple

from holdfast_agent.errors import MalformedMessage, UsageError
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.records import Pieces, parse_header
from holdfast_agent.sealing.tree import FANOUT_LOG2, Node, child_slots, root_level
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import BadRecord, CheckerSpec, CheckOrder, MoverResult, Order

from .conversation import AnyMessage, Check, Done, Record, Stored, Unreadable, encode, split_ids
from .line import Peer
from .proofs import Checked, Proofs
from .role import unexpected
from .seen import Seen
from .stages import Tally
from .workers import Workers

WINDOW_BYTES = 48 << 20
"""Plain bytes of blocks that were asked for and are not yet proved."""

_FETCH = 16
_NODES_AT_ONCE = 64
_MOST_BAD = 10_000
_IDLE_S = 60.0


class Wanted(NamedTuple):
    """A record to be proved. ``level`` 0 and above: a node there; -1: a block, ``covers`` so many bytes of a disk.

    ``refused``: records that came for it and were not what its id says.
    """

    id: BlockId
    level: int
    first: int
    geometry: Geometry
    covers: int = 0
    refused: int = 0


class Checker:
    """See :class:`holdfast_agent.mover.role.Role`."""

    origin = ""

    def __init__(self, spec: CheckerSpec, host: MoverHost, connection: Peer) -> None:
        self.workers = Workers(host.workers, "checker")
        self.tally = Tally()
        self.result: MoverResult | None = None
        self._connection = connection
        self._proofs = Proofs(spec.keys, self.tally.proxy)
        self._check: _Check | None = None

    def begin(self, order: Order) -> None:
        if not isinstance(order, CheckOrder) or self._check is not None:
            raise UsageError(reason="a checker takes one check order")
        self.tally.begin(sum(tree.geometry.size_bytes for tree in order.trees))
        self._check = _Check(order, self._connection, self.workers, self.tally, self._proofs)

    def change_rules(self, rules: TransferRules) -> None:
        """Nothing to do: the reader obeys them for both."""

    def receive(self, message: AnyMessage, payload: memoryview, cost_bytes: int) -> None:
        check = self._check
        if check is not None and isinstance(message, Record):
            check.record((message.head, payload), cost_bytes)
            return
        self._connection.release(cost_bytes)
        if check is not None and isinstance(message, Unreadable):
            check.unreadable(split_ids(payload, 1, 1)[0], message.reason)
        elif check is not None and isinstance(message, Stored) and check.done:
            self.tally.end()
            self.result = check.result()
        else:
            raise unexpected(message)

    def pump(self) -> float:
        if self._check is not None:
            self._check.pump()
        return _IDLE_S

    def close(self, error: BaseException | None, timeout_s: float) -> bool:
        if self._check is not None:
            self._check.close()
        return self.workers.close(timeout_s)


class _Check:
    """Depth first, a bounded number of nodes and a window of blocks under way. Main thread only."""

    def __init__(self, order: CheckOrder, connection: Peer, workers: Workers, tally: Tally, proofs: Proofs) -> None:
        self.done = False
        self._connection = connection
        self._workers = workers
        self._tally = tally
        self._proofs = proofs
        self._deadline = time.monotonic() + order.max_duration_s if order.max_duration_s else None
        self._sample = order.sample_percent / 100
        self._draw = random.SystemRandom()
        self._seen = Seen()
        self._nodes: list[Wanted] = []
        self._blocks: deque[Wanted] = deque()
        self._asked: dict[BlockId, Wanted] = {}
        self._nodes_asked = 0
        self._window = WINDOW_BYTES
        self._checked = 0
        self._skipped = 0
        self._bad: list[BadRecord] = []
        self._bad_count = 0
        for tree in reversed(order.trees):
            self._reach([BlockId(tree.root)], root_level(tree.geometry), 0, tree.geometry)

    def close(self) -> None:
        self._seen.close()

    def result(self) -> MoverResult:
        return MoverResult(
            blocks_checked=self._checked, bad=tuple(self._bad), bad_count=self._bad_count, skipped=self._skipped
        )

    def pump(self) -> None:
        """Ask for what may be asked for now."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._skipped += len(self._blocks) + len(self._nodes)
            self._blocks.clear()
            self._nodes.clear()
        while self._blocks and self._window > 0:
            self._ask([self._blocks.popleft() for _ in range(min(_FETCH, len(self._blocks)))])
        room = _NODES_AT_ONCE - self._nodes_asked
        if self._nodes and room > 0 and not self._blocks:
            self._ask([self._nodes.pop() for _ in range(min(_FETCH, room, len(self._nodes)))])
        if not (self.done or self._nodes or self._blocks or self._asked or self._workers.busy):
            self.done = True
            self._connection.send(encode(Done()))

    def record(self, record: Pieces, cost_bytes: int) -> None:
        """A record has come."""
        wanted = self._answered(parse_header(record[0]).id)
        self._tally.transferred += cost_bytes
        if wanted.level < 0:
            self._workers.submit(
                self._proved, self._proofs.block, wanted, record, wanted.geometry.block_bytes, cost_bytes
            )
        else:
            place = (wanted.level, wanted.geometry.block_log2)
            self._workers.submit(self._proved, self._proofs.node, wanted, record, place, cost_bytes)

    def unreadable(self, record_id: BlockId, reason: str) -> None:
        """The repository has no record (left) that could be this one."""
        self._spoilt(self._answered(record_id), reason)

    def _ask(self, wanted: list[Wanted]) -> None:
        for one in wanted:
            self._asked[one.id] = one
            if one.level < 0:
                self._window -= one.geometry.block_bytes
            else:
                self._nodes_asked += 1
        self._connection.send(encode(Check(wanted[0].refused)), [one.id for one in wanted])

    def _answered(self, record_id: BlockId) -> Wanted:
        wanted = self._asked.pop(record_id, None)
        if wanted is None:
            raise MalformedMessage(peer="the other mover", reason="a record that was not asked for")
        if wanted.level < 0:
            self._window += wanted.geometry.block_bytes
        else:
            self._nodes_asked -= 1
        return wanted

    def _proved(self, checked: Checked[Wanted]) -> None:
        self._connection.release(checked.cost_bytes)
        wanted = checked.wanted
        if checked.problem is not None and checked.refuse:
            self._ask([wanted._replace(refused=wanted.refused + 1)])
        elif checked.problem is not None:
            self._spoilt(wanted, checked.problem)
        elif checked.node is not None:
            self._descend(wanted, checked.node)
        else:
            self._checked += 1
            self._tally.processed += wanted.covers
            self._tally.sent += wanted.covers

    def _spoilt(self, wanted: Wanted, reason: str) -> None:
        self._bad_count += 1
        if len(self._bad) < _MOST_BAD:
            self._bad.append(BadRecord(wanted.id, reason))
        self._tally.processed += wanted.covers if wanted.level < 0 else _covered(wanted)

    def _descend(self, wanted: Wanted, node: Node) -> None:
        covered = _covered(wanted)
        if wanted.level > 0:
            below = FANOUT_LOG2 * wanted.level
            for slot, child in reversed(list(child_slots(node))):
                first = wanted.first + (slot << below)
                covered -= _covered(Wanted(child, wanted.level - 1, first, wanted.geometry))
                self._reach([child], wanted.level - 1, first, wanted.geometry)
        else:
            covered -= self._reach_blocks(wanted, node)
        # What is left is holes and blocks that were met before.
        self._tally.deduplicated += covered
        self._tally.processed += covered

    def _reach(self, ids: list[BlockId], level: int, first: int, geometry: Geometry) -> None:
        """A node comes into sight: to be fetched, unless it is a hole or was met before."""
        for node_id in self._seen.new([one for one in ids if one != HOLE]):
            self._nodes.append(Wanted(node_id, level, first, geometry))
            return
        covered = _covered(Wanted(HOLE, level, first, geometry))
        self._tally.deduplicated += covered
        self._tally.processed += covered

    def _reach_blocks(self, leaf: Wanted, node: Node) -> int:
        """Queue the blocks of a leaf that were never met; the bytes that they stand for."""
        places: dict[BlockId, int] = {}
        for place in range(min(node.children, leaf.geometry.blocks - leaf.first)):
            places.setdefault(BlockId(node.ids[place * ID_BYTES : (place + 1) * ID_BYTES]), place)
        places.pop(HOLE, None)
        queued = 0
        for block_id in self._seen.new(list(places)):
            if self._sample < 1 and self._draw.random() >= self._sample:
                self._skipped += 1
                continue
            covers = leaf.geometry.extent(leaf.first + places[block_id]).length
            self._blocks.append(Wanted(block_id, -1, leaf.first, leaf.geometry, covers))
            queued += covers
        return queued


def _covered(node: Wanted) -> int:
    """Bytes of the disk below a node."""
    geometry = node.geometry
    end = min((node.first + (1 << FANOUT_LOG2 * (node.level + 1))) << geometry.block_log2, geometry.size_bytes)
    return max(0, end - (node.first << geometry.block_log2))
