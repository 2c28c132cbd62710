"""The source mover: reads a disk and sends what the repository does not have."""

from __future__ import annotations

from functools import partial
from random import SystemRandom

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import DiskError, DiskShrunk, ToolMissing, UsageError
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import HOLE
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import BackupOrder, MoverResult, Order, SourceSpec

from .audit import Audit, draw
from .blocks import BlockWork
from .conversation import (
    LEAF_BLOCKS,
    AnyMessage,
    BeginBackup,
    Ids,
    Opened,
    Run,
    Stored,
    Wanted,
    WantIds,
    count_blocks,
    encode,
)
from .course import Course, after_audit, by_bitmap, check_extents
from .fetcher import Fetcher
from .line import Peer
from .pipeline import Pipeline
from .plan import data_extents, leave_out, plan
from .point_disk import PointDisk, open_point
from .role import unexpected
from .stages import Tally
from .unused import Unused, asks_for_unused, find_unused
from .workers import Workers

_IDLE_S = 60.0


class Source:
    """See :class:`holdfast_agent.mover.role.Role`."""

    def __init__(self, spec: SourceSpec, host: MoverHost, connection: Peer) -> None:
        self.workers = Workers(host.workers, "source")
        self.tally = Tally()
        self.result: MoverResult | None = None
        self._spec = spec
        self._host = host
        self._connection = connection
        self._rules = spec.rules
        connection.limit(spec.rules.bandwidth_bytes_per_s)
        self._fetcher = Fetcher(spec.origin, host) if spec.origin is not None else None
        self._order: BackupOrder | None = None
        self._disk: ReadableDisk | None = None
        self._course: Course | None = None
        self._audit: Audit | None = None
        self._surveying = False
        self._unused = Unused()
        self._transfer: Pipeline | None = None

    @property
    def origin(self) -> str:
        """The endpoint of the reader mover whose points it reads, once that is connected; "" for disks."""
        return self._fetcher.peer if self._fetcher is not None else ""

    def begin(self, order: Order) -> None:
        if not isinstance(order, BackupOrder) or self._order is not None:
            raise UsageError(reason="a source takes one backup order")
        if order.mode in (ChangeMode.CBT, ChangeMode.DIGEST) and (order.base_root is None or not order.base_geometry):
            raise UsageError(reason=f"the mode {order.mode} needs a base point")
        if order.base_geometry is not None and order.base_geometry.block_log2 != order.geometry.block_log2:
            raise UsageError(reason="the base point has another block size")
        self._order = order
        if self._fetcher is not None and self._spec.origin is not None:
            self.workers.submit(self._begin_point, open_point, order, self._spec.origin.keys, self._fetcher)
        else:
            self._begin(*_open_first(order, self._host), order)

    def _begin_point(self, opened: tuple[PointDisk, BackupOrder]) -> None:
        disk, order = opened
        self._begin(disk, disk.url, order)

    def _begin(self, disk: ReadableDisk, used: str, order: BackupOrder) -> None:
        """The disk is open: tell the target what comes."""
        self._disk, self._used, self._order = disk, used, order
        if self._disk.size_bytes < order.geometry.size_bytes:
            raise DiskShrunk(
                url=self._used, found_bytes=self._disk.size_bytes, expected_bytes=order.geometry.size_bytes
            )
        self.tally.begin(order.geometry.size_bytes)
        if order.mode is ChangeMode.CBT and order.extents is None:
            self.workers.submit(self._set_out, by_bitmap, order, self._disk)
        else:
            check_extents(order)
            self._set_out(Course(order))

    def _set_out(self, course: Course) -> None:
        """Where the disk's changes are to be found is settled: the tree can begin."""
        self._course = course
        order = course.order
        based = order.mode in (ChangeMode.CBT, ChangeMode.DIGEST)
        self._connection.send(
            encode(
                BeginBackup(
                    order.geometry,
                    order.mode,
                    order.base_root if based else None,
                    order.base_geometry if based else None,
                )
            )
        )

    def change_rules(self, rules: TransferRules) -> None:
        self._rules = rules
        self._connection.limit(rules.bandwidth_bytes_per_s)
        if self._transfer is not None:
            self._transfer.rules = rules

    def receive(self, message: AnyMessage, payload: memoryview, cost_bytes: int) -> None:
        self._connection.release(cost_bytes)
        if self._audit is not None and isinstance(message, Ids):
            self._audit.page(message, payload)
        elif self._transfer is None:
            if not isinstance(message, Opened) or self._audit is not None or self._surveying:
                raise unexpected(message)
            self._opened(message.lost)
        elif isinstance(message, Wanted):
            self._transfer.answer(message)
        elif isinstance(message, Ids):
            self._transfer.page(message, payload)
        elif isinstance(message, Stored):
            self._finish(self._transfer)
        else:
            raise unexpected(message)

    def pump(self) -> float:
        if self._audit is not None:
            self._audit.pump()
        return self._transfer.pump() if self._transfer is not None else _IDLE_S

    def close(self, error: BaseException | None, timeout_s: float) -> bool:
        # The fetcher first: it wakes the workers that wait for it.
        parted = self._fetcher is None or self._fetcher.close(error is None, timeout_s)
        ended = self.workers.close(timeout_s) and parted
        if ended and self._disk is not None:
            self._disk.close()
        return ended

    def _opened(self, lost: tuple[Run, ...]) -> None:
        """The tree has begun: audit what a tracker said, if anything, then transfer."""
        if self._disk is None or self._course is None:
            raise unexpected(Opened(lost))
        order = self._course.order
        base = order.base_geometry or order.geometry
        count_blocks(lost, base)
        if isinstance(self._disk, PointDisk):
            self._disk.expect(lost)
        if order.extents is None or order.audit is None or order.audit.off:
            self._survey(self._disk, order, lost)
            return
        sample = draw(order, lost, order.audit, SystemRandom())
        work = BlockWork(self._disk, order.geometry, self._spec.keys, self.tally.source, self.tally.proxy)
        ask = self._ask_leaf if order.mode is ChangeMode.CBT else None
        then = partial(self._audited, self._disk, order, lost)
        self._audit = Audit(sample, base, work, self.workers, self.tally, ask, then)

    def _audited(self, disk: ReadableDisk, order: BackupOrder, lost: tuple[Run, ...], first_missed: int | None) -> None:
        self._audit = None
        if first_missed is not None:
            self._course = after_audit(order, first_missed, self.tally)
            order = self._course.order
        self._survey(disk, order, lost)

    def _survey(self, disk: ReadableDisk, order: BackupOrder, lost: tuple[Run, ...]) -> None:
        """Learn what of the disk may be left out, if anything, then transfer."""
        if asks_for_unused(order):
            self._surveying = True
            then = partial(self._surveyed, disk, order, lost)
            self.workers.submit(then, find_unused, disk, order.geometry, self.tally.source)
        else:
            self._surveyed(disk, order, lost, self._unused)

    def _surveyed(self, disk: ReadableDisk, order: BackupOrder, lost: tuple[Run, ...], unused: Unused) -> None:
        self._surveying, self._unused = False, unused
        work = BlockWork(disk, order.geometry, self._spec.keys, self.tally.source, self.tally.proxy)
        parts = leave_out(plan(order, data_extents(disk), lost), unused.runs)
        self._transfer = Pipeline(self._connection, self.workers, self.tally, work, self._rules, order, parts, lost)

    def _ask_leaf(self, first: int) -> None:
        self._connection.send(encode(WantIds(first, LEAF_BLOCKS)))

    def _finish(self, transfer: Pipeline) -> None:
        if not transfer.done or self._course is None:
            raise unexpected(Stored(HOLE))
        self.tally.end()
        order, reason = self._course
        turned = order.mode if reason else None
        self.result = MoverResult(
            root=transfer.root, used_disk=self._used, mode=turned, reason=reason, unused=self._unused.told
        )


def _open_first(order: BackupOrder, host: MoverHost) -> tuple[ReadableDisk, str]:
    """The first disk that opens. Raises the error of the first one if none does."""
    first: DiskError | ToolMissing | None = None
    for url in order.disks:
        try:
            return open_disk(url, host, order.access), url
        except (DiskError, ToolMissing) as error:
            first = first or error
    raise first or UsageError(reason="the order names no disk")
