"""What a Data Mover is told: its specification at start and the order that begins the transfer.

Movers are started and connected before the snapshot is taken, so that the snapshot lives no longer than the
transfer. The specification therefore names only what is known at that time; the order follows.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from holdfast_agent.model.boot import BootBus, BootFirmware
from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import BlockId, Sid
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.keys import DataKeys

from .files import FilesFound, FilesWish


class MoverSpec(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Common to all movers. ``secret`` is the task's 32 random bytes under which both movers seal the data channel."""

    task_id: str
    secret: bytes
    rules: TransferRules = TransferRules()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task_id={self.task_id!r})"


class BlockTree(msgspec.Struct, frozen=True, array_like=True):
    """The tree of one disk of a restore point."""

    root: BlockId
    geometry: Geometry


class OriginSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where a source reads restore points instead of disks: a reader mover at another repository, and its keys.

    ``secret`` seals the data channel to that reader, which has one of its own.
    """

    secret: bytes
    endpoints: tuple[str, ...]
    keys: DataKeys

    def __repr__(self) -> str:
        return f"OriginSpec(keys={self.keys!r})"


class SourceSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Backup, proxy side: reads the disk, seals blocks under ``keys``, connects to one of the target's endpoints.

    ``origin``: for copies; what it reads is the disk of a restore point.
    """

    endpoints: tuple[str, ...]
    keys: DataKeys
    origin: OriginSpec | None = None


class TargetSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Backup, repository side: listens, stores sealed records, builds the tree. Holds no keys.

    ``mover`` numbers the target movers of one session (its packs are named ``<sid>-<mover>-<seq>``); a retried task
    gets a new number, so that no name ever recurs.
    """

    repository: str
    sid: Sid
    mover: int


class BenchmarkStage(StrEnum):
    """How far a benchmark goes: to the ids of what is read, over the network, or into the storage."""

    READ = "read"
    SEND = "send"
    STORE = "store"


class BenchmarkSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Benchmark, repository side: listens as a target does, and keeps nothing. Since 1.1.

    READ wants no record, SEND wants all and drops them, STORE writes them to a throw-away repository in the directory
    of ``repository``, which is removed with the mover.
    """

    repository: str
    stage: BenchmarkStage


class ReaderSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Restore, level 2 verification and copy, repository side: listens and serves records. Holds no keys."""

    repository: str


class WriterSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Restore and level 2 verification, proxy side: fetches, opens and checks records, and writes the disk."""

    endpoints: tuple[str, ...]
    keys: DataKeys


class CheckerSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Level 2 verification, proxy side: fetches, opens and checks every distinct record of many trees."""

    endpoints: tuple[str, ...]
    keys: DataKeys


class PairSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Both movers of a task in one process, on a host that is its proxy and has its repository. Since 1.3.

    Nothing that they say leaves the process: the leader needs no endpoints, and no secret is used. Orders and rules are
    those of the leader; the result is of both together.
    """

    leader: SourceSpec | WriterSpec | CheckerSpec
    follower: TargetSpec | ReaderSpec | BenchmarkSpec


class ExportDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk of an export: clients know it as ``name``."""

    name: str
    tree: BlockTree


class ExporterSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Proxy side: serves the disks of a restore point over NBD or NFS until it is stopped. Since 1.2.

    Records come from ``repository``, a path on this very host, or else from the reader mover at ``endpoints`` (under
    ``secret``). ``export``: names the folder in which the agent keeps what belongs to it. ``listen``: "" for a Unix
    socket in that folder, ``unix:/path``, ``tls`` for TCP with client certificates, or (1.3) ``nfs`` for NFS 3 to none
    but the addresses ``clients`` (writable exports only). ``writable``: clients may write, to an overlay in that
    folder; it goes with the lease unless ``keep`` is set. ``description``: for people.
    """

    export: str
    keys: DataKeys
    disks: tuple[ExportDisk, ...]
    repository: str = ""
    endpoints: tuple[str, ...] = ()
    listen: str = ""
    writable: bool = False
    keep: bool = False
    description: str = ""
    clients: tuple[str, ...] = ()


class BootWish(StrEnum):
    """What proves that a guest is up: its agent answers, its serial console has said a certain text, or a command that
    its agent runs in it ends with 0 (since 1.3; an older agent refuses the order)."""

    AGENT = "agent"
    CONSOLE = "console"
    COMMAND = "command"


class BootSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Proxy side: starts a guest by QEMU from ``disks`` of the ``export`` that an exporter of this lease serves, and
    watches it for ``timeout_s``. Since 1.2.

    It has no network, and nothing of the host. ``text``: for the wishes CONSOLE and COMMAND. ``emulate``: without
    the host's KVM, even where it has one.
    """

    export: str
    disks: tuple[str, ...]
    memory_mib: int = 1024
    cpus: int = 1
    bus: BootBus = BootBus.VIRTIO
    firmware: BootFirmware = BootFirmware.BIOS
    wish: BootWish = BootWish.AGENT
    text: str = ""
    timeout_s: float = 300.0
    emulate: bool = False


class FilesSpec(MoverSpec, frozen=True, tag=True, kw_only=True):
    """Proxy side: reads the file systems on ``disks`` of the ``export`` that an exporter of this lease serves, in a
    confined process. ``volume``: of this one only (a name as :class:`ListVolumes` tells it). Since 1.2."""

    export: str
    disks: tuple[str, ...]
    wish: FilesWish
    volume: str = ""


class TransferOrder(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of the orders that begin a transfer; sent to the mover on the proxy, which drives the conversation.

    ``access``: secrets for the servers of its disks.
    """

    geometry: Geometry
    access: tuple[DiskAccess, ...] = ()


class OriginDisk(msgspec.Struct, frozen=True, kw_only=True):
    """The disk of a restore point that a copy reads; ``root`` is that of its tree, its geometry the order's.

    ``since``: in the mode CBT, the tree of an earlier point of the same repository whose copy is the order's base: what
    changed is what the two trees tell. ``name``: for people.
    """

    name: str
    root: BlockId
    since: BlockTree | None = None


class BackupOrder(TransferOrder, frozen=True, tag=True, kw_only=True):
    """Read this disk in this mode.

    ``disks`` are the disk URLs to try in order (transport fail-over). ``base_root``: tree of the base point of the
    same disk (needed by CBT and DIGEST), with ``base_geometry``. ``extents``: ascending changed (CBT) or allocated
    (ALLOCATION) extents where a change tracker named them; None means that the disk itself is asked, for CBT for the
    bitmap that its URL names. Should it have none, the disk falls to the mode ``on_loss``; None there fails the task.
    ``zeros``: CBT: ascending extents of whole blocks that changed, too, and are known to be zeros now.
    ``audit``: how much of what a tracker lets us leave unread is read nevertheless; None leaves the audit out.
    ``skip_unused``: what file systems on the disk do not need becomes zeros in the new point, where the disk itself is
    asked for its allocation (ALLOCATION and DIGEST without ``extents``); since 1.1.
    ``origin`` stands in the place of ``disks`` for a source that reads restore points.
    """

    disks: tuple[str, ...]
    mode: ChangeMode
    base_root: BlockId | None = None
    base_geometry: Geometry | None = None
    extents: tuple[Extent, ...] | None = None
    zeros: tuple[Extent, ...] = ()
    on_loss: ChangeMode | None = ChangeMode.DIGEST
    audit: AuditRate | None = None
    skip_unused: bool = False
    origin: OriginDisk | None = None


class RestoreOrder(TransferOrder, frozen=True, tag=True, kw_only=True):
    """Write the tree ``root`` to ``disk``; None writes nothing and only checks every block (verification level 2).

    ``create`` makes a new sparse image (refused if it exists unless ``overwrite``); without it the disk must exist
    and be large enough. ``differing``: what is on that disk is compared with the tree, and only blocks that differ are
    written; where its URL names a bitmap, which must have begun with the tree, only what that tells is compared.
    ``audit``: of what the bitmap says; as in a backup. Both since 1.2. ``extents``: ascending areas that may differ,
    where a change tracker named them: the rest is not compared; since 1.3, and before it all is.
    """

    root: BlockId
    disk: str | None
    create: bool = True
    overwrite: bool = False
    differing: bool = False
    extents: tuple[Extent, ...] | None = None
    audit: AuditRate | None = None


class CheckOrder(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Check every distinct record of these trees once.

    The checker walks the trees itself, from roots that a MAC vouches for: a repository host can leave nothing out.

    ``max_duration_s`` (0: none): begin no further record after so long. ``sample_percent``: of the blocks; nodes are
    always checked.
    """

    trees: tuple[BlockTree, ...]
    max_duration_s: float = 0.0
    sample_percent: float = 100.0


Order = BackupOrder | RestoreOrder | CheckOrder
AnySpec = (
    SourceSpec
    | TargetSpec
    | ReaderSpec
    | WriterSpec
    | CheckerSpec
    | BenchmarkSpec
    | PairSpec
    | ExporterSpec
    | BootSpec
    | FilesSpec
)


class BadRecord(msgspec.Struct, frozen=True, array_like=True):
    """A node or block that no home in the repository gives back whole. ``reason``: a sentence for people."""

    id: BlockId
    reason: str


class PackRef(msgspec.Struct, frozen=True, array_like=True):
    """A published pack: its name and size in bytes, as the commit checks them."""

    name: str
    size_bytes: int


class BootProof(msgspec.Struct, frozen=True, kw_only=True):
    """How a boot proof ended after ``seconds``. ``reason``: a sentence for people. ``console``: the end of what came on
    the serial console. ``screenshot``: PNG, or nothing."""

    proved: bool
    reason: str
    seconds: float
    console: str = ""
    screenshot: bytes = b""

    def __repr__(self) -> str:
        return f"BootProof(proved={self.proved}, reason={self.reason!r}, seconds={self.seconds:.1f})"


class MoverResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a mover that finished well reports.

    ``root``: source: root over the ids that it computed itself (None in CBT mode, where it does not know all);
    target: root of the tree that it stored. The manager compares the two; a pair does so itself, and tells the latter.
    ``packs``: target and pair only. ``used_disk``: the URL that the source opened. ``mode`` and ``reason``: source, and
    a writer that compares, where it went another way than it was ordered.
    ``unused``: source, in words for people, what was found on the disk for ``skip_unused`` (since 1.1).
    Of a check: ``bad`` (at most 10,000; ``bad_count`` is all), and ``skipped``: nodes and blocks that the order's
    bounds left unread. ``boot``: of a boot proof; ``files``: of a look into file systems (both since 1.2).
    """

    root: BlockId | None = None
    packs: tuple[PackRef, ...] = ()
    used_disk: str = ""
    mode: ChangeMode | None = None
    reason: str = ""
    blocks_checked: int = 0
    bad: tuple[BadRecord, ...] = ()
    bad_count: int = 0
    skipped: int = 0
    unused: str = ""
    boot: BootProof | None = None
    files: FilesFound | None = None
