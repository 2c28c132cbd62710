"""What of a disk that is rewritten in place must be compared with the restore point.

It is asked as a backup asks whose base is that point: what a change tracker named, or the disk's dirty bitmap if its
URL names one. Their word is audited; without one that can be believed all that is allocated is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.wire.specs import BackupOrder, RestoreOrder

from .audit import Audit, draw
from .blocks import BlockWork
from .conversation import Ids
from .course import Course, after_audit, by_bitmap, check_extents
from .role import unexpected
from .stages import Tally
from .workers import Workers


class Rewriting:
    """Settles the course, then tells it, once. Main thread only."""

    def __init__(
        self,
        order: RestoreOrder,
        now: ReadableDisk,
        work: BlockWork,
        workers: Workers,
        tally: Tally,
        ask: Callable[[int], None],
        then: Callable[[Course], None],
    ) -> None:
        """``now``: the disk as it is. ``ask``: see :class:`Audit`."""
        self._work = work
        self._workers = workers
        self._tally = tally
        self._ask = ask
        self._then = then
        self._audit: Audit | None = None
        as_backup = _as_backup(order)
        check_extents(as_backup)
        if as_backup.mode is ChangeMode.CBT and as_backup.extents is None:
            workers.submit(self._told, by_bitmap, as_backup, now)
        else:
            self._told(Course(as_backup))

    def pump(self) -> None:
        if self._audit is not None:
            self._audit.pump()

    def page(self, message: Ids, payload: memoryview) -> None:
        """Ids that the audit asked for have come."""
        if self._audit is None:
            raise unexpected(message)
        self._audit.page(message, payload)

    def _told(self, course: Course) -> None:
        """It is known what a tracker says, if there is one."""
        order = course.order
        if order.mode is not ChangeMode.CBT or order.audit is None or order.audit.off:
            self._then(course)
            return
        sample = draw(order, (), order.audit, SystemRandom())
        audited = (sample, order.geometry, self._work, self._workers, self._tally, self._ask)
        self._audit = Audit(*audited, lambda missed: self._audited(course, missed))

    def _audited(self, course: Course, first_missed: int | None) -> None:
        self._audit = None
        self._then(course if first_missed is None else after_audit(course.order, first_missed, self._tally))


def _as_backup(order: RestoreOrder) -> BackupOrder:
    bitmap = order.disk is not None and parse_disk_url(order.disk).option("bitmap")
    return BackupOrder(
        geometry=order.geometry,
        disks=(),
        mode=ChangeMode.CBT if bitmap or order.extents is not None else ChangeMode.DIGEST,
        base_root=order.root,
        base_geometry=order.geometry,
        extents=order.extents,
        audit=order.audit,
    )
