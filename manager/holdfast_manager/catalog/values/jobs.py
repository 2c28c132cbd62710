"""Jobs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from holdfast_agent.model.boot import BootBus, BootFirmware
from holdfast_agent.model.change import AuditRate
from holdfast_agent.model.geometry import DEFAULT_BLOCK_LOG2, MAX_BLOCK_LOG2, MIN_BLOCK_LOG2
from holdfast_agent.model.rules import Compression

from ...retention.policy import RetentionPolicy
from ...schedules.schedule import JobSchedule
from .names import PERCENT, Name, Rate, Slots
from .points import PointScope


class GuestPolicy(StrEnum):
    """``REQUIRE``: without quiescing the VM's backup fails. ``TRY``: it goes on with a warning. ``SKIP``: not tried."""

    REQUIRE = "require"
    TRY = "try"
    SKIP = "skip"


class GuestSettings(msgspec.Struct, frozen=True):
    """How guests of a job are quiesced: by which ``processor`` (a plugin's name) with which ``options``."""

    processor: str
    policy: GuestPolicy = GuestPolicy.REQUIRE
    options: dict[str, Any] = {}


class OnCbtLoss(StrEnum):
    """What a disk falls to when its change tracking is lost: compare by digest, read all, or fail the task."""

    DIGEST = "digest"
    FULL = "full"
    FAIL = "fail"


class Priority(StrEnum):
    """Of a job's tasks in the queue for slots: which share they get while others wait, too. None waits for ever."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def weight(self) -> int:
        """Of two jobs that wait for the same slots each gets them in this proportion."""
        return (1, 3, 9)[list(Priority).index(self)]


class BootSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the VM of a restore point is started to prove that it boots.

    ``proxy``: the agent that starts it ("": the repository's own, if it is a proxy, else any). The others as in
    :class:`~holdfast_agent.wire.specs.BootSpec`; ``console``: what its serial console says when it is up; ``command``:
    for the guest's shell, ends with 0 when it is up ("" for both: its guest agent answers).
    """

    proxy: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    memory_bytes: Annotated[int, msgspec.Meta(ge=64 << 20, le=1 << 40)] = msgspec.field(default=1 << 30, name="memory")
    cpus: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    bus: BootBus = BootBus.VIRTIO
    firmware: BootFirmware = BootFirmware.BIOS
    console: Annotated[str, msgspec.Meta(max_length=200)] = ""
    command: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86400)] = msgspec.field(default=300.0, name="timeout")
    emulate: bool = False

    def __post_init__(self) -> None:
        if self.console and self.command:
            raise ValueError("console and command exclude each other")


class CopySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy job copies: the points of the repository ``origin`` that the job's repository does not have.

    ``jobs``: only those that are filed under jobs with one of these names or patterns; none: of all jobs. ``suspect``:
    points that something was found wrong with, too.
    """

    origin: Name = msgspec.field(name="from")
    jobs: tuple[str, ...] = ()
    suspect: bool = False


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A backup job, or with ``copy`` one that copies restore points.

    From and to tables by ``catalog.job_tables``; there the keys stand as in ``rename`` below.

    ``include`` and ``exclude`` hold VM names or glob patterns. ``proxies`` is a list of preference, not a restriction:
    other enabled proxies are used when these have no free slot. ``bandwidth_bytes_per_s`` limits the whole job
    (None: no limit). ``streams``: connections per task (1; 5 pay on long lines). ``retries`` and ``retry_pause_s``:
    failed tasks only (3 times after 30 s outlast a restart of an agent). ``snapshot`` are options of the server's
    plugin. ``retention`` is applied after each successful session of the job. ``audit``: how many of the blocks that
    change tracking calls unchanged are read and compared in each run of a disk, or which share of them ("1.5 %").
    ``skip_unused``: what no file system needs is left out; a restored disk is then not the same bit for bit.
    ``schedule``: when the service runs it (None: never; and not while ``enabled`` is False). ``priority``: of its tasks
    in the queue. ``max_tasks``: how many of them work at once (None: as many as there are slots for). ``verify_boot``:
    each new point is started, to prove that it boots (None: it is not).

    A copy job has no ``server``; without ``include`` it copies points of all VMs. ``repository`` is where copies go;
    they are filed under the job, so that its ``retention`` rules them. Of the rest it has what copies know.
    """

    name: Name
    repository: Name
    server: Name | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    proxies: tuple[Name, ...] = ()
    compression: Compression = Compression.LZ4
    block_bytes: int = msgspec.field(default=1 << DEFAULT_BLOCK_LOG2, name="block_size")
    bandwidth_bytes_per_s: Rate | None = msgspec.field(default=None, name="bandwidth")
    streams: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    retries: Annotated[int, msgspec.Meta(ge=0, le=20)] = 3
    retry_pause_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = msgspec.field(default=30.0, name="retry_pause")
    guest: GuestSettings | None = None
    on_cbt_loss: OnCbtLoss = OnCbtLoss.DIGEST
    audit: Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern=PERCENT)] = AuditRate().blocks
    skip_unused: bool = False
    snapshot: dict[str, Any] = {}
    retention: RetentionPolicy = RetentionPolicy()
    schedule: JobSchedule | None = None
    priority: Priority = Priority.NORMAL
    max_tasks: Slots | None = None
    verify_boot: BootSettings | None = None
    copy: CopySettings | None = None
    enabled: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        if self.schedule is not None and self.schedule.after == self.name:
            raise ValueError("schedule.after names the job itself")
        if self.copy is None:
            self._check_backup()
        else:
            self._check_copy(self.copy)
        if self.block_bytes not in {1 << log2 for log2 in range(MIN_BLOCK_LOG2, MAX_BLOCK_LOG2 + 1)}:
            raise ValueError("block_size must be a power of two from 64 KiB to 4 MiB")

    def _check_backup(self) -> None:
        if self.server is None or not self.include:
            raise ValueError("a backup job needs server and include; one that copies restore points needs copy.from")
        if self.schedule is not None and self.schedule.immediate:
            raise ValueError("schedule.immediate is for jobs that copy: a new restore point starts those")

    def _check_copy(self, copy: CopySettings) -> None:
        if self.repository == copy.origin:
            raise ValueError("copy.from is the repository that the copies go to")
        for field in _OF_BACKUPS:
            if getattr(self, field) != _default(field):
                raise ValueError(f"{field} is for backups; a job that copies restore points has none")

    @property
    def source(self) -> str:
        """What the job takes its data from: a server, or the repository that it copies from."""
        return self.copy.origin if self.copy is not None else self.server or ""

    @property
    def scope(self) -> PointScope:
        """Of a copy job: the points that it is for."""
        return PointScope(vms=self.include, exclude=self.exclude, jobs=self.copy.jobs if self.copy is not None else ())

    @property
    def block_log2(self) -> int:
        """Binary logarithm of the block size, as ``Geometry`` takes it."""
        return self.block_bytes.bit_length() - 1

    @property
    def audit_rate(self) -> AuditRate:
        """``audit`` as an order takes it."""
        if isinstance(self.audit, int):
            return AuditRate(self.audit)
        return AuditRate(0, float(self.audit.rstrip("% ")))


_OF_BACKUPS = ("server", "block_bytes", "guest", "on_cbt_loss", "audit", "skip_unused", "snapshot")


def _default(field: str) -> Any:
    """The default of a field of a job."""
    found = next(each for each in msgspec.structs.fields(JobSpec) if each.name == field)
    return found.default if found.default_factory is msgspec.NODEFAULT else found.default_factory()
