"""Making a restore point of what the movers have brought: the configuration, the roots, the MAC, the commit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from holdfast_agent.errors import TreesDiffer
from holdfast_agent.model.change import AuditOutcome, ChangeDecision
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.records import RecordKind, seal_record
from holdfast_agent.sealing.roots import pack_set_digest, seal_point
from holdfast_agent.wire.messages import BlobStored, CommitSession, Done, StoreBlob
from holdfast_agent.wire.specs import PackRef
from holdfast_manager.catalog.point_rows import row_of_point
from holdfast_manager.catalog.values import JobSpec
from holdfast_manager.reports.sentences import counted
from holdfast_manager.steps import Step
from holdfast_plugins.api import SnapshotDisk

from .change_choice import carried_out
from .events import TaskKey
from .mover_pair import Outcome
from .tasks import Context
from .vm_work import VmWork
from .write_sessions import WriteAttempt


class PointWriter:
    """What makes a point of finished transfers exist, for backups and copies. Thread-safe for different points."""

    def __init__(self, context: Context, keys: RepositoryKeys) -> None:
        self._context = context
        self._keys = keys

    def store_config(self, attempt: WriteAttempt, plain: bytes) -> tuple[str, tuple[PackRef, ...]]:
        """Seal and store a VM's configuration: its id in hex, and the packs that it took (none if it was there)."""
        keys = self._keys.blob_keys()
        blob = keys.block_id(plain)
        request = StoreBlob(
            lease=self._context.pool.lease,
            repository=self._context.repository.path,
            sid=attempt.sid,
            mover=attempt.next_mover(),
            record=b"".join(seal_record(RecordKind.BLOB, plain, blob, keys)),
        )
        return blob.hex(), self._context.pool.ask(self._context.repository.agent, request, BlobStored).packs

    def commit(
        self, attempt: WriteAttempt, point: Point, packs: Sequence[PackRef], outcomes: Iterable[Outcome],
        retain_until: float = 0.0,
    ) -> None:  # fmt: skip
        """The one act that makes the point exist. Raises ``SessionFenced`` or ``AgentAway`` (both retryable).

        The catalogue knows of it before, as pending, and after: whatever dies in between, it is asked for.
        """
        attempt.pending = row_of_point(
            self._context.repository.name,
            point,
            session=self._context.session,
            stored_bytes=sum(outcome.counters.stored_bytes for outcome in outcomes),
            retained_until=retain_until,
        )
        self._context.catalog.pending_points.write(attempt.pending)
        request = CommitSession(
            lease=self._context.pool.lease,
            repository=self._context.repository.path,
            entry=seal_point(point, self._keys),
            packs=tuple(packs),
            retain_until=retain_until,
        )
        # Repeated while its answer is lost: it is idempotent, and its outcome must be known.
        self._context.pool.insist(self._context.repository.agent, request, Done)
        self._context.catalog.points.add(attempt.pending)


class Committer:
    """Commits the VMs of one backup session. Thread-safe for different VMs."""

    def __init__(self, context: Context, job: JobSpec, keys: RepositoryKeys, server: str) -> None:
        self._context = context
        self._job = job
        self._keys = keys
        self._server = server
        self._writer = PointWriter(context, keys)

    def commit(self, vm: VmWork) -> Point:
        """Make the restore point exist, then remember it in the catalogue. All transfers of the VM have finished.

        Raises what the repository raises: ``SessionFenced`` or ``AgentAway`` (retryable: the VM starts anew).
        """
        outcomes = {
            disk.disk_id: self._context.desk.outcome(TaskKey(vm.info.ref.vm_id, disk.disk_id))
            for disk in vm.snapshot_disks()
        }
        packs = [pack for outcome in outcomes.values() for pack in outcome.listener.packs]
        config, blob_packs = self._writer.store_config(vm, msgspec.json.encode(vm.info))
        packs += blob_packs
        point = self._point(vm, outcomes, config, packs)
        self._writer.commit(vm, point, packs, outcomes.values(), self._retain_until(point))
        return point

    def _point(self, vm: VmWork, outcomes: dict[str, Outcome], config: str, packs: Sequence[PackRef]) -> Point:
        return Point(
            sid=vm.sid,
            repository_id=self._keys.repository_id,
            created=time.time(),
            job=self._job.name,
            server=self._server,
            vm_id=vm.info.ref.vm_id,
            vm_name=vm.info.ref.name,
            disks=tuple(self._disk(vm, disk, outcomes[disk.disk_id]) for disk in vm.snapshot_disks()),
            packs=pack_set_digest(pack.name for pack in packs),
            base=vm.base.sid if vm.base else None,
            config=config,
            consistency=vm.consistency,
        )

    def _disk(self, vm: VmWork, disk: SnapshotDisk, outcome: Outcome) -> DiskPoint:
        if outcome.listener.root is None:
            raise TreesDiffer(disk=disk.name)
        self._tell_way(vm, disk, outcome.connector.used_disk)
        decision = carried_out(vm.decisions[disk.disk_id], outcome.connector)
        return DiskPoint(
            disk_id=disk.disk_id,
            name=disk.name,
            size_bytes=disk.size_bytes,
            block_log2=self._job.block_log2,
            root=outcome.listener.root.hex(),
            mode=decision.mode,
            reason=decision.reason,
            change_id=disk.change_id,
            audit=_audit(vm, disk.disk_id, decision, outcome.counters),
            tracker=decision.tracker or msgspec.UNSET,
            unused_bytes=outcome.counters.unused_bytes or msgspec.UNSET,
        )

    def _tell_way(self, vm: VmWork, disk: SnapshotDisk, used: str) -> None:
        """Where there were several ways to a disk: by which it was read, and whether a better one had failed."""
        ways = vm.ways.get(disk.disk_id, ())
        if len(ways) > 1 and used in ways:
            failed = f", for {counted(ways.index(used), 'better way')} did not open" if used != ways[0] else ""
            text = f"{disk.name} of {vm.info.ref.name} was read from {used}{failed}"
            self._context.recorder.note(text, "warning" if failed else "info", Step.TRANSFER)

    def _retain_until(self, point: Point) -> float:
        immutable_s = self._job.retention.immutable_s
        return point.created + immutable_s if immutable_s else 0.0


def _audit(vm: VmWork, disk_id: str, decision: ChangeDecision, counters: TransferCounters) -> str:
    if counters.missed_blocks or vm.distrusts(disk_id):
        return AuditOutcome.FAILED.value
    passed = decision.tracker and counters.audited_blocks
    return AuditOutcome.PASSED.value if passed else AuditOutcome.NONE.value
