"""Making a restore point of a copy: as its original, under the keys and the retention of where it is now."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec

from holdfast_agent.errors import TreesDiffer
from holdfast_agent.model.change import ChangeDecision
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.sealing.roots import pack_set_digest
from holdfast_manager.catalog.values import JobSpec

from .committing import PointWriter
from .copy_plan import Pair
from .events import TaskKey
from .homes import Home
from .mover_pair import Outcome
from .point_reader import PointReader
from .requests import CopyRequest
from .tasks import Context
from .write_sessions import WriteAttempt


@dataclass
class CopyWork(WriteAttempt):
    """One point on its way. Owned by the actions; instructions about one point never run at once.

    ``copy``: what becomes of it, from before that is committed.
    """

    point: Point
    origin: PointReader
    home: Home
    base: Pair | None = None
    copy: Point | None = None
    decisions: dict[str, ChangeDecision] = field(default_factory=dict)


class CopyCommitter:
    """Commits the points of one copy session. Thread-safe for different points."""

    def __init__(self, context: Context, request: CopyRequest, job: JobSpec | None) -> None:
        """``job``: whose retention rules the copies."""
        self._context = context
        self._request = request
        self._immutable_s = job.retention.immutable_s if job is not None else 0.0

    def commit(self, work: CopyWork) -> None:
        """Make the copy exist, then remember it in the catalogue. All transfers of the point have finished.

        Raises what the repository raises: ``SessionFenced`` or ``ConnectionLost`` (retryable: the point starts anew).
        """
        desk, original = self._context.desk, work.point
        writer = PointWriter(work.home.context, work.home.keys)
        outcomes = {disk.disk_id: desk.outcome(TaskKey(original.sid, disk.disk_id)) for disk in original.disks}
        packs = [pack for outcome in outcomes.values() for pack in outcome.listener.packs]
        config = None
        if original.config is not None:
            config, blob_packs = writer.store_config(work, work.origin.config(original))
            packs += blob_packs
        work.copy = msgspec.structs.replace(
            original,
            sid=work.sid,
            repository_id=work.home.keys.repository_id,
            job=self._request.job or original.job,
            disks=tuple(_copied(disk, work.decisions[disk.disk_id], outcomes[disk.disk_id]) for disk in original.disks),
            packs=pack_set_digest(pack.name for pack in packs),
            base=work.base.copy.sid if work.base else None,
            config=config,
            origin=original.identity,
        )
        retain_until = time.time() + self._immutable_s if self._immutable_s else 0.0
        writer.commit(work, work.copy, packs, outcomes.values(), retain_until)


def _copied(disk: DiskPoint, decision: ChangeDecision, outcome: Outcome) -> DiskPoint:
    """The disk in the copy. A change id is for the repository whose backups it was made for: it is left out."""
    if outcome.listener.root is None:
        raise TreesDiffer(disk=disk.name)
    root, mode = outcome.listener.root.hex(), decision.mode
    return msgspec.structs.replace(disk, root=root, mode=mode, reason=decision.reason, change_id=None)
