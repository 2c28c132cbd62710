"""Tasks that bring disks of another repository's points into write sessions of ours: those of copies and of heals.

The movers are those of a backup; a third one, a reader at the other repository, feeds the source.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from holdfast_agent.model.change import ChangeDecision, ChangeMode
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.specs import BackupOrder, BlockTree, OriginDisk
from holdfast_manager.catalog.values import JobSpec, RepositoryEntry

from .events import Event, MoversStarted, TaskKey, TransferBegan
from .homes import Home
from .movers import Feeder
from .pair_tasks import PairTasks
from .point_reader import PointReader
from .tasks import Context
from .write_sessions import WriteAttempt
from .writing_movers import start_writing_movers, told_rules


class PointTransfer(msgspec.Struct, frozen=True):
    """What a task is to do. ``disk`` is of ``point``, in the origin. ``base``: the disk of our repository to build on.

    ``since``: in the mode CBT the origin's equal of ``base``; without it ``extents`` say what is read.
    """

    point: Point
    disk: DiskPoint
    decision: ChangeDecision
    base: DiskPoint | None = None
    since: DiskPoint | None = None
    extents: tuple[Extent, ...] | None = None

    def order(self) -> BackupOrder:
        """As the source mover takes it."""
        base = self.base if self.decision.mode in (ChangeMode.CBT, ChangeMode.DIGEST) else None
        since = None if self.since is None else BlockTree(root_id(self.since.root), self.since.geometry)
        return BackupOrder(
            geometry=self.disk.geometry,
            disks=(),
            mode=self.decision.mode,
            base_root=root_id(base.root) if base else None,
            base_geometry=base.geometry if base else None,
            extents=self.extents,
            origin=OriginDisk(
                name=f"disk {self.disk.name} of restore point {self.point.sid[:12]}",
                root=root_id(self.disk.root),
                since=since,
            ),
        )


class Way(msgspec.Struct, frozen=True):
    """From where to where a task brings its disk: out of ``origin`` into the write session ``attempt`` at ``home``."""

    origin: PointReader
    home: Home
    attempt: WriteAttempt


class PointTasks(PairTasks):
    """``way_of`` tells the way of a task, ``transfer_of`` what it is to do, once it is connected.

    ``job``: the copy job whose tasks they are; None for those of a command.
    """

    def __init__(
        self,
        context: Context,
        proxy: str,
        rules: TransferRules,
        way_of: Callable[[TaskKey], Way],
        transfer_of: Callable[[TaskKey], PointTransfer],
        job: JobSpec | None = None,
    ) -> None:
        super().__init__(context, proxy, job)
        self._rules = rules
        self._way_of = way_of
        self._transfer_of = transfer_of

    def repositories(self, key: TaskKey) -> tuple[RepositoryEntry, ...]:
        way = self._way_of(key)
        return way.home.repository, way.origin.repository

    def start(self, key: TaskKey) -> Event:
        way = self._way_of(key)
        origin = way.origin.repository
        start_writing_movers(
            way.home.context,
            key,
            self.work.proxy_of(key),
            way.attempt,
            msgspec.structs.replace(self._rules, bandwidth_bytes_per_s=None),  # it is the session's, not the task's
            way.home.keys,
            Feeder(origin.agent, origin.path, way.origin.keys.opening_keys()),
        )
        limit = self._rules.bandwidth_bytes_per_s if self.job is None else self.job.bandwidth_bytes_per_s
        told = told_rules(way.home.context, self._rules.compression, limit)
        return MoversStarted(task=key, rules=f"every block is checked by its id, then {told}")

    def begin(self, key: TaskKey) -> Event:
        way, transfer = self._way_of(key), self._transfer_of(key)
        self.work.begin(
            key,
            transfer.order(),
            reads=way.origin.repository.name,
            writes=way.home.repository.name,
            own_limit=self._rules.bandwidth_bytes_per_s,
        )
        return TransferBegan(task=key, mode=transfer.decision.mode, reason=transfer.decision.reason)
