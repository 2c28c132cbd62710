"""Every message of the control channel, in the order in which a session uses them.

Requests go from the manager (or ``holdfast-agent``'s own tools) to an agent and get exactly one reply, or a
:class:`Failure`. Pushes go from the agent to the manager that holds the lease and get no reply.
The table in ``holdfast_agent.service.dispatch`` says which role each request needs.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import PointEntry
from holdfast_agent.model.rules import Route, TransferRules
from holdfast_agent.model.stats import TransferCounters

from .specs import AnySpec, MoverResult, Order, PackRef


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of all messages; the tag on the wire is the class name under the key "type"."""


class Request(Message, frozen=True, tag=True, kw_only=True):
    """Base of what a manager may ask."""


class Reply(Message, frozen=True, tag=True, kw_only=True):
    """Base of what an agent answers."""


class Push(Message, frozen=True, tag=True, kw_only=True):
    """Base of what an agent tells unasked."""


class Done(Reply, frozen=True, tag=True, kw_only=True):
    """Carried out; nothing to say."""


class Failure(Reply, frozen=True, tag=True, kw_only=True):
    """The request failed; the receiver raises ``errors.from_record(error)``."""

    error: ErrorRecord


# --- connection -----------------------------------------------------------------------------------------------


class Hello(Request, frozen=True, tag=True, kw_only=True):
    """First message of every connection; nothing else is handled before it. ``clock``: Unix time of the sender."""

    major: int
    minor: int
    software: str
    clock: float


class HelloReply(Reply, frozen=True, tag=True, kw_only=True):
    """Who answers. ``tools``: optional programs found on the host (such as "qemu-nbd").

    ``proxy_slots`` and ``repository_slots``: tasks that the host is sized for in each role, 0 without the role.
    ``addresses``: by which movers of other hosts reach movers here, the first one first (since 1.1).
    """

    major: int
    minor: int
    software: str
    clock: float
    agent: str
    roles: tuple[str, ...]
    proxy_slots: int
    repository_slots: int
    disk_schemes: tuple[str, ...]
    tools: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class Heartbeat(Request, frozen=True, tag=True, kw_only=True):
    """Sent by the manager when it has had nothing else to say for a while; answered by :class:`Done`."""


class AskHealth(Request, frozen=True, tag=True, kw_only=True):
    """How the host is; answered by :class:`Health`. Since 1.3."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """Room of a file system. ``purpose``: "repository" or "state". ``error``: why it could not be looked at."""

    path: str
    purpose: str
    size_bytes: int = 0
    free_bytes: int = 0
    error: str = ""


class Health(Reply, frozen=True, tag=True, kw_only=True):
    """``clock``: Unix time of the host. ``movers``: those that run, of all managers."""

    clock: float
    leases: int
    movers: int
    space: tuple[Space, ...]


# --- leases and movers ----------------------------------------------------------------------------------------


class RenewLease(Request, frozen=True, tag=True, kw_only=True):
    """Open a lease, or prolong it by ``ttl_s`` (5 … 3600) from now.

    A lease belongs to the key that opened it. When it runs out, its movers are stopped. The connection that renewed
    it last receives its pushes, so a manager that comes back adopts its movers by renewing.
    """

    lease: str
    ttl_s: float


class CloseLease(Request, frozen=True, tag=True, kw_only=True):
    """Stop all movers of the lease and forget it. Idempotent."""

    lease: str


class PrepareMover(Request, frozen=True, tag=True, kw_only=True):
    """Start the process of a mover whose :class:`StartMover` follows, so that it loads its modules meanwhile.

    For movers that connect, which cannot be told what to do before the other one listens. Asking twice starts one.
    """

    lease: str
    mover: str
    task_id: str


class StartMover(Request, frozen=True, tag=True, kw_only=True):
    """Start one Data Mover process, or tell the one that was prepared under this name what it is.

    ``mover`` is a fresh name chosen by the manager; asking twice starts one.
    """

    lease: str
    mover: str
    spec: AnySpec


class MoverStarted(Reply, frozen=True, tag=True, kw_only=True):
    """The process runs. ``endpoints``: where a listening mover can be reached; empty for one that connects."""

    pid: int
    endpoints: tuple[str, ...] = ()


class BeginTransfer(Request, frozen=True, tag=True, kw_only=True):
    """Give a mover on a proxy its order. Sent once per mover."""

    lease: str
    mover: str
    order: Order


class ChangeRules(Request, frozen=True, tag=True, kw_only=True):
    """New transfer rules for a running mover."""

    lease: str
    mover: str
    rules: TransferRules


class StopMover(Request, frozen=True, tag=True, kw_only=True):
    """Stop a mover and wait until its process is gone. Idempotent."""

    lease: str
    mover: str
    reason: str


class ListMovers(Request, frozen=True, tag=True, kw_only=True):
    """All movers of a lease, ended ones included until the lease is closed; how a returning manager finds out."""

    lease: str


class MoverState(msgspec.Struct, frozen=True, kw_only=True):
    """One mover as its agent sees it. ``phase``: starting, listening, connected, transferring, done, failed.

    ``route``: once connected, of a mover on a proxy (since 1.1).
    """

    mover: str
    task_id: str
    phase: str
    counters: TransferCounters = TransferCounters()
    result: MoverResult | None = None
    error: ErrorRecord | None = None
    route: Route | None = None


class MoverList(Reply, frozen=True, tag=True, kw_only=True):
    movers: tuple[MoverState, ...]


class MoverChanged(Push, frozen=True, tag=True, kw_only=True):
    """A mover connected, made progress (at most about twice a second), finished or failed."""

    lease: str
    state: MoverState


# --- proxy ------------------------------------------------------------------------------------------------------


class ProbeDisk(Request, frozen=True, tag=True, kw_only=True):
    """Can this proxy open the disk? Answers :class:`DiskFacts` or the error that opening it gives."""

    disk: str


class DiskFacts(Reply, frozen=True, tag=True, kw_only=True):
    size_bytes: int


class ListExports(Request, frozen=True, tag=True, kw_only=True):
    """What this manager's writable exports left on this host, those that are in use among them. Since 1.2."""


class KeptExport(msgspec.Struct, frozen=True, kw_only=True):
    """``stored_bytes``: what its writes take on the storage. ``in_use``: an exporter serves it now."""

    name: str
    stored_bytes: int
    in_use: bool


class ExportList(Reply, frozen=True, tag=True, kw_only=True):
    exports: tuple[KeptExport, ...]


class DiscardExport(Request, frozen=True, tag=True, kw_only=True):
    """Remove what was written to an export of this manager. Idempotent; ``Locked`` while it is in use. Since 1.2."""

    export: str


# --- repository -------------------------------------------------------------------------------------------------


class KeySlot(msgspec.Struct, frozen=True):
    """A wrapped master key. The agent stores and returns it and cannot open it."""

    name: str
    body: bytes


class CreateRepository(Request, frozen=True, tag=True, kw_only=True):
    """Make a repository in an empty or absent directory below one that the agent's configuration allows."""

    repository: str
    repository_id: str
    slots: tuple[KeySlot, ...]


class AddKeySlot(Request, frozen=True, tag=True, kw_only=True):
    """Store one more wrapped master key, as :class:`RepositoryFacts`. A slot's name is never used again."""

    repository: str
    slot: KeySlot


class RemoveKeySlot(Request, frozen=True, tag=True, kw_only=True):
    """Let a slot open nothing any more, as :class:`RepositoryFacts`. Refused for the last one."""

    repository: str
    slot: str


class RaiseKeyEpoch(Request, frozen=True, tag=True, kw_only=True):
    """Have new records sealed under a later key epoch, as :class:`RepositoryFacts`. Idempotent; never lowered."""

    repository: str
    epoch: int


class OpenRepository(Request, frozen=True, tag=True, kw_only=True):
    """Check that a repository is there; also clears what dead writers left behind."""

    repository: str


class RepositoryFacts(Reply, frozen=True, tag=True, kw_only=True):
    repository_id: str
    slots: tuple[KeySlot, ...]
    total_bytes: int
    free_bytes: int
    epoch: int = 1


class ListPoints(Request, frozen=True, tag=True, kw_only=True):
    """Committed points in pages: those with ids after ``after``, at most ``limit``, ascending by id.

    ``hidden``: instead those that were pruned, also long ago: a copy that was pruned is not made again.
    """

    repository: str
    after: str = ""
    limit: int = 500
    hidden: bool = False


class ReadPoint(Request, frozen=True, tag=True, kw_only=True):
    """One committed point, as a :class:`PointList` of one; ``PointNotFound`` when it is not there (any more)."""

    repository: str
    sid: Sid


class RetainedPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What protects a point from pruning: Unix time ``until`` which nobody may prune it (0: none), and a hold."""

    sid: Sid
    until: float = 0.0
    hold: bool = False


class PointList(Reply, frozen=True, tag=True, kw_only=True):
    """``more``: ask again after the last id of this page. ``retained``: those of the page that are protected."""

    points: tuple[PointEntry, ...]
    more: bool
    retained: tuple[RetainedPoint, ...] = ()


class PointToPrune(msgspec.Struct, frozen=True, kw_only=True):
    """``reason``: a sentence for people, kept in the tombstone."""

    sid: Sid
    reason: str = ""


class TombstonePoints(Request, frozen=True, tag=True, kw_only=True):
    """Prune up to 1000 points: hide them now, and let the collector have them when ``window_s`` is over.

    A point that may not be pruned does not spoil the others. Idempotent.
    """

    repository: str
    points: tuple[PointToPrune, ...]
    window_s: float


class PruneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """``error`` None: the point is hidden, now or since before. ``undo_until``: Unix time, by the agent's clock."""

    sid: Sid
    undo_until: float = 0.0
    error: ErrorRecord | None = None


class PointsPruned(Reply, frozen=True, tag=True, kw_only=True):
    """One outcome for each point asked for, in that order."""

    outcomes: tuple[PruneOutcome, ...]


class UndoTombstone(Request, frozen=True, tag=True, kw_only=True):
    """Give a pruned point back, as a :class:`PointList` of one. ``UndoWindowOver`` once the collector has it."""

    repository: str
    sid: Sid


class RetainPoint(Request, frozen=True, tag=True, kw_only=True):
    """Protect a point: ``until`` extends its time (an earlier one changes nothing), ``hold`` sets or lifts the hold."""

    repository: str
    sid: Sid
    until: float = 0.0
    hold: bool | None = None


class PointRetention(Reply, frozen=True, tag=True, kw_only=True):
    """What protects the point now."""

    retained: RetainedPoint


class RepositoryStatistics(Request, frozen=True, tag=True, kw_only=True):
    """Count what points, VMs and the whole repository take. Reads all trees; no key needed.

    ``points``: tell of these only (empty: of the newest). The reply is :class:`Done` at once; the end is a
    :class:`StatisticsEnded` with ``ticket``.
    """

    lease: str
    ticket: str
    repository: str
    points: tuple[Sid, ...] = ()


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes. ``logical``: of the disks. ``used``: of their blocks that are no holes, counted as often as they occur.

    ``unique``: of their distinct blocks, plain. ``stored``: what those take in packs. ``metadata``: distinct tree nodes
    and configurations, in packs. ``freed``: all that would go from packs with these points and nothing else.
    """

    logical_bytes: int = 0
    used_bytes: int = 0
    unique_bytes: int = 0
    stored_bytes: int = 0
    metadata_bytes: int = 0
    freed_bytes: int = 0


class PointSizes(msgspec.Struct, frozen=True, kw_only=True):
    sid: Sid
    sizes: Sizes


class VmSizes(msgspec.Struct, frozen=True, kw_only=True):
    """All points of one VM together."""

    server: str
    vm_id: str
    vm_name: str
    points: int
    sizes: Sizes


class StatisticsEnded(Push, frozen=True, tag=True, kw_only=True):
    """``packs_bytes``: all packs on the storage, also what no point refers to. ``left_off``: points not told of."""

    ticket: str
    total: Sizes = Sizes()
    packs_bytes: int = 0
    vms: tuple[VmSizes, ...] = ()
    points: tuple[PointSizes, ...] = ()
    left_off: int = 0
    error: ErrorRecord | None = None


class BeginSession(Request, frozen=True, tag=True, kw_only=True):
    """Open the write session ``sid`` in the repository; the base point is chosen only after this."""

    lease: str
    repository: str
    sid: Sid


class StoreBlob(Request, frozen=True, tag=True, kw_only=True):
    """Store one sealed record of at most 4 MiB (a VM's configuration) as part of the session's packs."""

    lease: str
    repository: str
    sid: Sid
    mover: int
    record: bytes


class BlobStored(Reply, frozen=True, tag=True, kw_only=True):
    packs: tuple[PackRef, ...]


class ReadBlob(Request, frozen=True, tag=True, kw_only=True):
    """Read a blob record as it is stored, by its hex id."""

    repository: str
    blob: str


class BlobRecord(Reply, frozen=True, tag=True, kw_only=True):
    record: bytes


class CommitSession(Request, frozen=True, tag=True, kw_only=True):
    """Commit the restore point: the one act that makes it exist. Idempotent for the same bytes.

    ``retain_until``: Unix time before which nobody may prune it; in force before the point can be seen.
    """

    lease: str
    repository: str
    entry: PointEntry
    packs: tuple[PackRef, ...]
    retain_until: float = 0.0


class AbortSession(Request, frozen=True, tag=True, kw_only=True):
    """Give the session up: its outcome becomes FENCED. Idempotent; refused after a commit."""

    lease: str
    repository: str
    sid: Sid


class VerifyBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a verification; 0 means none. Packs longest unread come first, so that short runs go round.

    ``older_than_s``: only packs that this host has not found whole within so many seconds. ``max_duration_s``: begin no
    further pack (level 2: block) after so many. ``sample_percent``: of the packs (blocks) that are due, drawn anew.
    """

    older_than_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_duration_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    sample_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 100.0


class VerifyRepository(Request, frozen=True, tag=True, kw_only=True):
    """Check at level 0 or 1 (no keys needed); ``points`` empty means all. Progress comes as pushes with ``ticket``.

    ``tables``: at level 0 read the tables of contents of the packs too. What is bad is noted in the repository's
    quarantine, so that the next backup stores it again; nothing is deleted. The reply is :class:`Done` at once; the
    end is a :class:`VerifyEnded`.
    """

    lease: str
    ticket: str
    repository: str
    level: int
    points: tuple[Sid, ...] = ()
    budget: VerifyBudget = VerifyBudget()
    tables: bool = False


class StopVerification(Request, frozen=True, tag=True, kw_only=True):
    """Stop a verification; its :class:`VerifyEnded` follows and says so. Idempotent."""

    lease: str
    ticket: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong. ``points``: restore points that it touches. ``lost``: data cannot be read any more."""

    object: str
    kind: str
    detail: str
    points: tuple[Sid, ...] = ()
    lost: bool = False


class VerifyProgress(Push, frozen=True, tag=True, kw_only=True):
    ticket: str
    checked_bytes: int
    total_bytes: int


class VerifyEnded(Push, frozen=True, tag=True, kw_only=True):
    """``packs_checked`` were read and ``packs_left`` not, by the budget. ``known``: bad things that are in quarantine
    and cost no data (any more). ``noted``: notes that are new in quarantine."""

    ticket: str
    findings: tuple[Finding, ...] = ()
    objects_checked: int = 0
    checked_bytes: int = 0
    packs_checked: int = 0
    packs_left: int = 0
    known: int = 0
    noted: int = 0
    error: ErrorRecord | None = None


class CollectGarbage(Request, frozen=True, tag=True, kw_only=True):
    """Remove what no restore point refers to, beside whatever runs. ``dry_run``: only say what would be removed.

    The reply is :class:`Done` at once; progress comes as pushes with ``ticket``, the end is a :class:`CollectEnded`.
    It may wait for backups that run. It ends with its lease, or by :class:`StopVerification`; the next one goes on from
    there.
    """

    lease: str
    ticket: str
    repository: str
    dry_run: bool = False


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection found and did; of a dry run, what it would do. One that resumes another knows less: zeros then.

    ``lost_records`` are needed and in no pack. ``fenced_sessions`` were found dead while it waited.
    """

    generation: int
    packs: int = 0
    stored_bytes: int = 0
    points: int = 0
    live_records: int = 0
    live_bytes: int = 0
    lost_records: int = 0
    condemned_packs: int = 0
    moved_bytes: int = 0
    fenced_sessions: int = 0
    swept_packs: int = 0
    freed_bytes: int = 0


class CollectProgress(Push, frozen=True, tag=True, kw_only=True):
    """``phase``: "marking" (nodes and segments, ``total`` 0), "compacting" (bytes), "waiting" (sessions), "sweeping"
    (packs)."""

    ticket: str
    phase: str
    done: int
    total: int


class CollectEnded(Push, frozen=True, tag=True, kw_only=True):
    ticket: str
    collection: Collection | None = None
    error: ErrorRecord | None = None


class RebuildIndex(Request, frozen=True, tag=True, kw_only=True):
    """Throw the local index away and rebuild it from the repository itself."""

    repository: str


class IndexRebuilt(Reply, frozen=True, tag=True, kw_only=True):
    records: int
