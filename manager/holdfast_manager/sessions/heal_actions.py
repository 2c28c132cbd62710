"""What each step of a heal does: what points have lost is stored again from points with the same content elsewhere.

It runs on the restore's machine. Each tree that has lost something is backed up onto itself from its equal in the other
repository: the target asks for what it may not refer to any more, and gets that alone. Where nodes are lost, too, the
tree is built anew: on the one of the point before, which is whole by then, or from the whole disk. An id is that of the
content under this repository's key, so that nothing but what was lost can take its place. No point is made: the write
session ends FENCED, as a collector's does, and its packs stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from holdfast_agent.errors import HealIncomplete, HoldfastError, MoverDied
from holdfast_agent.model.change import ChangeDecision, ChangeMode
from holdfast_agent.model.ids import HOLE, BlockId, Sid
from holdfast_agent.model.points import DiskPoint, Origin, Point
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.messages import Finding, VerifyBudget
from holdfast_manager.enrolment.points import authentic_points
from holdfast_manager.reports.sentences import counted

from .change_choice import base_disk
from .committing import PointWriter
from .events import (
    Event,
    TargetAbandoned,
    TargetFinished,
    TargetPrepared,
    TaskKey,
)
from .homes import Home
from .keyless import KeylessCheck, finding_text
from .point_reader import PointReader
from .point_tasks import PointTasks, PointTransfer, Way
from .requests import HealRequest
from .target_actions import TargetActions
from .tasks import Context
from .write_sessions import WriteAttempt, begin_write_session, give_up_write_session, open_repositories

_NO_BUDGET = VerifyBudget()
_SHOWN = 200


class _Heal(msgspec.Struct, frozen=True):
    """``disk`` of ``point`` has lost what ``other``, the same disk of ``equal``, may have. ``broken``: nodes, too."""

    point: Point
    disk: DiskPoint
    equal: Point
    other: DiskPoint
    broken: bool

    @property
    def place(self) -> tuple[str, str, str, int]:
        """What later points of the same disk have in common: their trees can be built on each other."""
        return self.point.server, self.point.vm_id, self.disk.disk_id, self.disk.block_log2


class HealActions(TargetActions):
    def __init__(self, context: Context, request: HealRequest, origin: PointReader, keys: RepositoryKeys) -> None:
        self._context = context
        self._origin = origin
        self._target = PointReader(context, context.repository, keys)
        self._writer = PointWriter(context, keys)
        self._keyless = KeylessCheck(context)
        self._attempt = WriteAttempt()
        self._heals: dict[TaskKey, _Heal] = {}
        self._lost: set[tuple[str, str]] = set()
        points = PointTasks(
            context,
            request.proxy,
            TransferRules(),
            lambda key: Way(origin, Home(context, keys), self._attempt),
            self._transfer,
        )
        super().__init__(points)
        self.tasks = points.work
        self.push = self._keyless.push

    def abandon(self) -> Event:
        give_up_write_session(self._context, self._attempt)
        return TargetAbandoned()

    # --- what is lost, and who has it -------------------------------------------------------------------------------

    def prepare(self) -> Event:
        open_repositories(self._context, self._context.repository, self._origin.repository)
        # Notes in quarantine whatever level 0 can see; what only the key can tell was noted by verifications before.
        lost = [finding for finding in self._keyless.run(0, (), _NO_BUDGET, tables=True).findings if finding.lost]
        self._lost = {(finding.kind, finding.object) for finding in lost}
        if not lost:
            return TargetPrepared(note="no point has lost anything", tasks=())
        self._attempt.renew()
        begin_write_session(self._context, self._attempt.sid)
        touched = {sid for finding in lost for sid in finding.points}
        broken = {sid for finding in lost if _of_trees(finding) for sid in finding.points}
        pairs = sorted(self._pairs(touched), key=lambda pair: pair[0].created)
        self._heal_configurations(pairs)
        keys = tuple(self._add(heal) for heal in self._disks(pairs, broken))
        note = f"{counted(len(lost), 'thing')} lost, of use to {counted(len(touched), 'restore point')}"
        return TargetPrepared(note=f"{note}; {len(pairs)} of them are in {self._origin.repository.name}", tasks=keys)

    def _pairs(self, touched: set[Sid]) -> Iterator[tuple[Point, Point]]:
        """Each point that has lost something, and the origin's with the same content."""
        catalog, name = self._context.catalog, self._context.repository.name
        equals: dict[Origin | tuple[str, str, float], Point] = {}
        for point in authentic_points(catalog, self._origin.repository.name, self._origin.ask).points:
            equals[point.identity] = equals[point.server, point.vm_id, point.created] = point
        for point in authentic_points(catalog, name, self._target.ask).points:
            if point.sid not in touched:
                continue
            equal = equals.get(point.identity) or equals.get((point.server, point.vm_id, point.created))
            if equal is not None:
                yield point, equal
            else:
                text = f"{self._origin.repository.name} has no point with the content of {_named(point)}"
                self._context.recorder.note(text, "warning")

    def _disks(self, pairs: Iterable[tuple[Point, Point]], broken: set[Sid]) -> Iterator[_Heal]:
        """The disks to heal, oldest first; of those with the same tree one."""
        seen: set[tuple[str, int]] = set()
        for point, equal in pairs:
            for disk in point.disks:
                other = base_disk(equal, disk.disk_id)
                if other is None or other.geometry != disk.geometry:
                    text = f"{_named(point)}: {disk.name} is not in its equal, or cut into other blocks"
                    self._context.recorder.note(text, "warning")
                elif root_id(disk.root) != HOLE and (disk.root, disk.size_bytes) not in seen:
                    seen.add((disk.root, disk.size_bytes))
                    yield _Heal(point, disk, equal, other, point.sid in broken)

    def _add(self, heal: _Heal) -> TaskKey:
        key = TaskKey(heal.point.sid, heal.disk.disk_id)
        self._heals[key] = heal
        self._context.recorder.add_task(key, _named(heal.point), heal.disk.name, heal.disk.size_bytes)
        return key

    def _transfer(self, key: TaskKey) -> PointTransfer:
        heal = self._heals[key]
        if not heal.broken:
            decision = ChangeDecision(ChangeMode.CBT, "the blocks that are lost")
            return PointTransfer(heal.equal, heal.other, decision, heal.disk, extents=())
        for before_key, before in reversed(self._heals.items()):
            if before.place == heal.place and self._is_whole(before_key):
                decision = ChangeDecision(
                    ChangeMode.CBT, f"a part of the tree is lost; built on {_named(before.point)}"
                )
                return PointTransfer(heal.equal, heal.other, decision, before.disk, before.other)
        decision = ChangeDecision(ChangeMode.ALLOCATION, "a part of the tree is lost: the whole disk is offered")
        return PointTransfer(heal.equal, heal.other, decision)

    def _is_whole(self, key: TaskKey) -> bool:
        """Whether a disk was healed: its tree is the one that it must be."""
        return self._root(key) == root_id(self._heals[key].disk.root)

    def _root(self, key: TaskKey) -> BlockId | None:
        try:
            return self._context.desk.outcome(key).listener.root
        except MoverDied:
            return None  # its task has not ended well (yet), which the log tells

    def _heal_configurations(self, pairs: Iterable[tuple[Point, Point]]) -> None:
        """Offer the VMs' configurations, each once; the repository stores those that it has not."""
        offered: set[str] = set()
        for point, equal in pairs:
            if point.config is None or equal.config is None or point.config in offered:
                continue
            offered.add(point.config)
            try:
                plain = self._origin.config(equal)
                if self._target.keys.blob_keys().block_id(plain).hex() == point.config:
                    self._writer.store_config(self._attempt, plain)
            except HoldfastError as error:
                if error.retryable:
                    raise
                self._context.recorder.note(f"the configuration of {_named(point)}: {error}", "warning")

    # --- what came of it --------------------------------------------------------------------------------------------

    def finish(self) -> Event:
        for key, heal in self._heals.items():
            if self._root(key) is not None and not self._is_whole(key):
                text = f"{_named(heal.point)}: the disk {heal.disk.name} has other content in its equal"
                self._context.recorder.note(text, "warning")
        give_up_write_session(self._context, self._attempt)
        if not self._lost:
            return TargetFinished(note="nothing was to heal")
        left = [finding for finding in self._keyless.run(0, (), _NO_BUDGET).findings if finding.lost]
        healed = len(self._lost - {(finding.kind, finding.object) for finding in left})
        self._context.recorder.note(f"{counted(healed, 'thing')} healed, {len(left)} still lost")
        for finding in left[:_SHOWN]:
            self._context.recorder.note(finding_text(finding), "error")
        if left:
            raise HealIncomplete(repository=self._context.repository.name, findings=len(left))
        name = self._context.repository.name
        return TargetFinished(note=f"all is there again; `holdfast repository verify {name} --level 2` proves it")


def _of_trees(finding: Finding) -> bool:
    """Whether nodes may be lost: one by one, or with a pack for nodes and configurations."""
    return finding.kind == "node" or (finding.kind == "pack" and "-m" in finding.object)


def _named(point: Point) -> str:
    return f"{point.vm_name}, point {point.sid[:12]}"
