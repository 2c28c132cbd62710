"""What the catalogue hands out and takes: frozen values, never rows or database objects."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_network
from typing import Annotated, Any

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.geometry import DEFAULT_BLOCK_LOG2, MAX_BLOCK_LOG2, MIN_BLOCK_LOG2
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Origin
from holdfast_agent.model.rules import Compression
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.wire.specs import BootBus, BootFirmware

from ..retention.policy import RetentionPolicy
from ..schedules.schedule import JobSchedule
from ..traffic.windows import check_time_zone, parse_window
from .processes import ProcessIdentity

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Names of servers, agents, repositories and jobs: 1 to 64 letters, digits, dots, dashes and underscores."""
_PERCENT = r"^(100|[0-9]{1,2}(\.[0-9]+)?) %$"
Slots = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Rate = Annotated[int, msgspec.Meta(ge=1024)]
"""A limit in bytes per second. Less than 1 KiB/s would be a stop, not a limit."""


Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=10_000)]


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks of all jobs may work at once on a server, on each host of it, on each datastore. None: no limit.

    Hosts and datastores count as far as the plugin tells where VMs and disks lie. ``latency_ms``: on a datastore that
    takes longer for a read or a write no task starts; ``throttle_latency_ms``: tasks that read from one that takes
    longer are slowed down (20 and 30 ms are good values). Only where the plugin measures it.
    """

    tasks: Slots | None = None
    tasks_per_host: Slots | None = None
    tasks_per_datastore: Slots | None = None
    latency_ms: Milliseconds | None = None
    throttle_latency_ms: Milliseconds | None = None


class ServerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A hypervisor. ``options`` belong to ``plugin``. Credentials are apart: ``servers.secret(name)``."""

    name: Name
    plugin: str
    options: dict[str, Any] = {}
    has_secret: bool = False
    limits: ServerLimits | None = None


class AgentRole(StrEnum):
    """What an agent may be used for; its own configuration has the last word."""

    PROXY = "proxy"
    REPOSITORY = "repository"


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. ``endpoint`` is "tcp://host:port"; ``public_key`` its pinned CURVE key, Z85 (40 characters).

    ``proxy_slots`` and ``repository_slots`` are the tasks that run at once on the host in each role, over all its
    repositories and all sessions (2: one per core of a small machine). ``enabled`` False: no new task starts there.
    """

    name: Name
    endpoint: str
    public_key: str
    roles: tuple[AgentRole, ...]
    proxy_slots: Slots = 2
    repository_slots: Slots = 2
    enabled: bool = True


class RepositoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A repository at ``path`` on the host of ``agent``. ``slots``: tasks at once in it. The key is apart.

    ``read_limit_bytes_per_s`` and ``write_limit_bytes_per_s``: what all tasks of all sessions together may read from
    it and write to it over the network (None: no limit).
    """

    name: Name
    agent: Name
    path: str
    repository_id: str
    encrypted: bool
    slots: Slots = 4
    read_limit_bytes_per_s: Rate | None = None
    write_limit_bytes_per_s: Rate | None = None


class TrafficRule(msgspec.Struct, frozen=True, kw_only=True):
    """A traffic rule: what tasks may do whose data goes from ``source`` to ``target``, or back unless ``one_way``.

    ``source`` and ``target`` are networks ("10.0.0.0/8") or addresses; none are all. ``bandwidth_bytes_per_s``: what
    all tasks that it covers may send together, in equal shares (None: no limit). ``streams``: connections of each new
    task, in the place of the job's (None: no say). ``windows``: when it holds ("mon-fri 08:00-18:00"), by a clock in
    ``time_zone``; none are always. Of several rules the most restrictive counts.
    """

    name: Name
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    one_way: bool = False
    bandwidth_bytes_per_s: Rate | None = msgspec.field(default=None, name="bandwidth")
    streams: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None
    windows: tuple[str, ...] = ()
    time_zone: str = "UTC"
    enabled: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        for network in (*self.source, *self.target):
            check_network(network)
        for window in self.windows:
            parse_window(window)
        check_time_zone(self.time_zone)
        if self.bandwidth_bytes_per_s is None and self.streams is None:
            raise ValueError("a traffic rule says something: give it a bandwidth, a number of streams, or both")


def check_network(text: str) -> None:
    """Raise ``ValueError`` unless ``text`` is a network such as 10.0.0.0/8, or an address."""
    try:
        ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; write a network such as 10.0.0.0/8, or one address") from None


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
    :class:`~holdfast_agent.wire.specs.BootSpec`; ``console``: what its serial console says when it is up ("": its guest
    agent answers).
    """

    proxy: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")] = ""
    memory_bytes: Annotated[int, msgspec.Meta(ge=64 << 20, le=1 << 40)] = msgspec.field(default=1 << 30, name="memory")
    cpus: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    bus: BootBus = BootBus.VIRTIO
    firmware: BootFirmware = BootFirmware.BIOS
    console: Annotated[str, msgspec.Meta(max_length=200)] = ""
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=86400)] = msgspec.field(default=300.0, name="timeout")
    emulate: bool = False


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A backup job. From and to tables by ``catalog.job_tables``; there the keys stand as in ``rename`` below.

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
    """

    name: Name
    server: Name
    include: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    repository: Name
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
    audit: Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern=_PERCENT)] = AuditRate().blocks
    skip_unused: bool = False
    snapshot: dict[str, Any] = {}
    retention: RetentionPolicy = RetentionPolicy()
    schedule: JobSchedule | None = None
    priority: Priority = Priority.NORMAL
    max_tasks: Slots | None = None
    verify_boot: BootSettings | None = None
    enabled: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        if self.schedule is not None and self.schedule.after == self.name:
            raise ValueError("schedule.after names the job itself")
        if self.block_bytes not in {1 << log2 for log2 in range(MIN_BLOCK_LOG2, MAX_BLOCK_LOG2 + 1)}:
            raise ValueError("block_size must be a power of two from 64 KiB to 4 MiB")

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


class SessionKind(StrEnum):
    """What a session does."""

    BACKUP = "backup"
    RESTORE = "restore"
    VERIFY = "verify"
    GC = "gc"
    COPY = "copy"
    HEAL = "heal"
    CLEAN_UP = "clean-up"
    EXPORT = "export"
    BOOT = "boot"
    FILES = "files"
    INSTANT = "instant"
    SETTLE = "settle"


class SessionState(StrEnum):
    """``STARTING``: written down, its process not there yet. The inner states of a session are its events."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class SessionResult(StrEnum):
    """How a session ended; ``NONE`` while it has not."""

    NONE = "none"
    SUCCESS = "success"
    WARNING = "warning"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A session. Times are Unix seconds. ``process`` is who runs it; ``spec`` what a restore or verify was asked.

    ``job`` is empty for sessions without one; it stays when the job is removed. ``alive_until``: for so long it counts
    as living on hosts other than its own.
    """

    id: int
    kind: SessionKind
    job: str
    state: SessionState
    result: SessionResult
    created: float
    process: ProcessIdentity
    started: float | None = None
    ended: float | None = None
    stop_requested: bool = False
    error: ErrorRecord | None = None
    spec: dict[str, Any] = {}
    alive_until: float | None = None


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual disk in one session. ``id`` 0: not stored yet. ``state`` is the task machine's word for it.

    ``sid`` is the restore point that the VM's disks go into. ``attempt`` counts from 1. ``queue_wait_s``: seconds
    spent waiting for slots, all attempts together.
    """

    id: int = 0
    session: int
    vm_id: str
    vm_name: str
    disk_id: str
    disk_name: str
    state: str
    sid: Sid | None = None
    attempt: int = 1
    mode: ChangeMode | None = None
    reason: str = ""
    counters: TransferCounters = TransferCounters()
    queue_wait_s: float = 0.0
    proxy: str = ""
    repository: str = ""
    error: ErrorRecord | None = None


class EventEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a session, in the order of ``id`` (0: not stored yet). ``task`` None: of the session itself.

    ``step`` is one of the ten named steps, or None. ``data`` is JSON-able: its shape belongs to ``kind``.
    """

    id: int = 0
    session: int
    task: int | None = None
    time: float
    kind: str
    step: str | None = None
    data: dict[str, Any] = {}


class NoticeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """That ``notifier`` is told of the end of a session. Times are Unix seconds.

    ``due``: when it is tried next, None when that is over: ``delivered``, or given up because of ``last_error``.
    """

    id: int
    session: int
    notifier: str
    created: float
    due: float | None
    attempts: int
    delivered: float | None
    last_error: str


class PointState(StrEnum):
    """``SUSPECT``: an audit or a verification found something wrong; the next backup does not build on it."""

    OK = "ok"
    SUSPECT = "suspect"


class BootRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the last boot proof of a restore point ended, by ``session``. ``picture``: the file of its screen, or ""."""

    proved: bool
    at: float
    session: int
    reason: str
    seconds: float
    picture: str = ""


class PointEntryRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue remembers of a restore point, so that lists need no agent. The repository has the truth.

    ``session`` None: found by a rescan. ``stored_bytes``: what the repository appended for it. Times are Unix seconds.
    ``verified``: when every block of it was last read, decoded and compared, by a verification or a restore. ``held``
    and ``retained_until`` protect it from pruning; the repository holds the same and enforces it. ``undo_until``: it is
    pruned, and can be given back until about then (None: it is not pruned). ``origin``: of which point it is a copy.
    ``doubt``: why it is suspect though its blocks may all be whole: an audit found that some of them may be out of
    date. No verification clears that. ``boot``: how its last boot proof ended; ``booted``: when one last came up.
    """

    sid: Sid
    repository: str
    server: str
    job: str
    vm_id: str
    vm_name: str
    created: float
    size_bytes: int
    session: int | None = None
    stored_bytes: int = 0
    consistency: str = "crash"
    state: PointState = PointState.OK
    verified: float | None = None
    held: bool = False
    retained_until: float = 0.0
    undo_until: float | None = None
    origin: Origin | None = None
    doubt: str = ""
    boot: BootRecord | None = None
    booted: float | None = None


class Obligation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was (or was about to be) made on a server and must be removed again.

    ``kind`` and ``data`` are the plugin's, handed to ``HypervisorDriver.fulfil``. ``last_error`` is text for people.
    """

    id: int
    session: int
    server: str
    plugin: str
    kind: str
    data: dict[str, str]
    created: float
    attempts: int = 0
    last_error: str = ""
