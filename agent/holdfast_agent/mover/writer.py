"""The writer mover: fetches a tree's records, proves each block by its id, and writes the disk (or only checks).

On a disk that was there it may leave alone what is as the restore point has it.
"""

from __future__ import annotations

from holdfast_agent.disks.disk import RewritableDisk, WritableDisk
from holdfast_agent.disks.open import open_target
from holdfast_agent.errors import UsageError
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import MoverResult, Order, RestoreOrder, WriterSpec

from .blocks import BlockWork
from .conversation import LEAF_BLOCKS, AnyMessage, Ids, Opened, OpenTree, Record, Stored, WantIds, encode
from .course import Course
from .differences import Differences, Everything, ToWrite
from .fetching import Fetching
from .line import Peer
from .plan import data_extents, plan
from .restore_work import RestoreWork
from .rewriting import Rewriting
from .role import unexpected
from .stages import Tally
from .workers import Workers

_IDLE_S = 60.0


class Writer:
    """See :class:`holdfast_agent.mover.role.Role`."""

    origin = ""

    def __init__(self, spec: WriterSpec, host: MoverHost, connection: Peer) -> None:
        self.workers = Workers(2 * host.workers, "writer")  # half of them wait for the disk
        self.tally = Tally()
        self.result: MoverResult | None = None
        self._spec = spec
        self._host = host
        self._connection = connection
        self._order: RestoreOrder | None = None
        self._disk: WritableDisk | None = None
        self._course: Course | None = None
        self._rewriting: Rewriting | None = None
        self._to_write: ToWrite | None = None

    def begin(self, order: Order) -> None:
        if not isinstance(order, RestoreOrder) or self._order is not None:
            raise UsageError(reason="a writer takes one restore order")
        self._order = order
        if order.disk is not None:
            self._disk = open_target(
                order.disk,
                self._host,
                order.geometry.size_bytes,
                create=order.create,
                overwrite=order.overwrite,
                granted=order.access,
            )
        if order.differing and not isinstance(self._disk, RewritableDisk):
            raise UsageError(reason="only a disk that was there before can be rewritten where it differs")
        self.tally.begin(order.geometry.size_bytes)
        work = RestoreWork(self._spec.keys, order.geometry, self._disk, self.tally.proxy, self.tally.target)
        self._fetching = Fetching(self._connection, self.workers, self.tally, order.geometry, work)
        self._connection.send(encode(OpenTree(order.root, order.geometry)))

    def change_rules(self, rules: TransferRules) -> None:
        """Nothing to do: the reader obeys them for both."""

    def receive(self, message: AnyMessage, payload: memoryview, cost_bytes: int) -> None:
        if self._order is None:
            raise unexpected(message)
        if isinstance(message, Record):
            self._fetching.record((message.head, payload), cost_bytes)
            return
        self._connection.release(cost_bytes)
        if isinstance(message, Opened) and self._rewriting is None and self._to_write is None:
            self._opened(self._order)
        elif isinstance(message, Ids) and self._to_write is not None:
            self._fetching.page(message, payload, self._to_write)
        elif isinstance(message, Ids) and self._rewriting is not None:
            self._rewriting.page(message, payload)
        elif isinstance(message, Stored) and self._fetching.done:
            self._finish()
        else:
            raise unexpected(message)

    def pump(self) -> float:
        if self._to_write is not None:
            self._fetching.pump(self._to_write)
        elif self._rewriting is not None:
            self._rewriting.pump()
        return _IDLE_S

    def close(self, error: BaseException | None, timeout_s: float) -> bool:
        ended = self.workers.close(timeout_s)
        if ended and self._disk is not None:
            self._disk.abort()  # does nothing if the disk was finished
        return ended

    def _opened(self, order: RestoreOrder) -> None:
        """The tree is there: find out what is to be written."""
        if not order.differing or not isinstance(self._disk, RewritableDisk):
            fetching = self._fetching
            self._to_write = Everything(order.geometry, fetching.want, fetching.want_zeros, fetching.announce)
            return
        now = self._disk.now
        work = BlockWork(now, order.geometry, self._spec.keys, self.tally.source, self.tally.proxy)

        def settled(course: Course) -> None:
            self._course = course
            parts = plan(course.order, data_extents(now), ())
            want, want_zeros = self._fetching.want, self._fetching.want_zeros
            self._to_write = Differences(order.geometry, parts, work, self.workers, self.tally, want, want_zeros)

        self._rewriting = Rewriting(order, now, work, self.workers, self.tally, self._ask_leaf, settled)

    def _ask_leaf(self, first: int) -> None:
        self._connection.send(encode(WantIds(first, LEAF_BLOCKS)))

    def _finish(self) -> None:
        self.tally.end()
        reason = self._course.reason if self._course is not None else ""
        turned = self._course.order.mode if self._course is not None and reason else None
        self.result = MoverResult(blocks_checked=self._fetching.checked, mode=turned, reason=reason)
