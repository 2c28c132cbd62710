"""Frames on the pipes between the Transport Service and a Data Mover process.

Each frame is a 4-byte little-endian length and a msgpack struct of this module. The service writes to the mover's
descriptor 0: first one :class:`MoverSetup`, then orders. The mover writes reports to its descriptor 1 and logs to
descriptor 2. End of file on descriptor 0 means that the agent is gone: the mover cleans up and exits.
"""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.link import LinkTimeouts
from holdfast_agent.model.rules import Route, TransferRules
from holdfast_agent.model.stats import TransferCounters

from .specs import AnySpec, MoverResult, Order

PIPE_FRAME_LIMIT_BYTES = 64 << 20
"""Bound of one frame. The largest is an order with extents: 16 bytes an extent, four million extents."""


class ExportHost(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent's configuration says of exports.

    ``directory``: where each has its folder. ``cache_bytes``: of decoded blocks in memory. The files of TLS (PEM): to
    prove this host to clients, and the authorities that vouch for clients; without all three nothing listens on TCP.
    ``nfs_addresses``: of this host, each for one export over NFS at a time, on ``nfs_port`` and the portmapper's;
    ``nfs_scratch_bytes``: what a client's own files may take of this host beside the disks of an export.
    """

    directory: str
    cache_bytes: int = 256 << 20
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    nfs_addresses: tuple[str, ...] = ()
    nfs_port: int = 2049
    nfs_scratch_bytes: int = 16 << 30


class MoverHost(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent's own configuration says; a manager cannot alter it.

    ``disk_paths`` and ``repository_paths``: directories below which disks may be opened and repositories may lie.
    ``listen_address`` and ``port_range`` (inclusive): data channel; ``advertised_addresses``: what peers are told, the
    first one first.
    ``cache_dir``: host-local caches of repositories. ``workers``: threads of the pool. ``session_fd``: target only,
    the inherited descriptor that holds the lock of the write session. ``connect_timeout_s``: how long a mover waits for
    its peer; ``stall_timeout_s``: how long a silent server of disks is borne; ``link``: what is borne between movers.
    ``identity``: as which a repository is opened.
    ``disk_servers``: rules of :mod:`holdfast_agent.model.server_rules` for disks on the network. ``tls_ca_file``: whom
    to trust there, the system's authorities if empty; ``tls_certificate_file``, ``tls_key_file``: to prove ourselves.
    ``vddk_dir``: where VMware's Virtual Disk Development Kit lies; empty if it is not there.
    ``exports``: for exporters; None on a host that is no proxy.
    """

    agent: str
    disk_paths: tuple[str, ...]
    repository_paths: tuple[str, ...]
    listen_address: str
    advertised_addresses: tuple[str, ...]
    port_range: tuple[int, int]
    cache_dir: str
    runtime_dir: str
    workers: int
    session_fd: int | None = None
    connect_timeout_s: float = 60.0
    stall_timeout_s: float = 120.0
    link: LinkTimeouts = LinkTimeouts()
    identity: RepositoryHost | None = None
    disk_servers: tuple[str, ...] = ()
    tls_ca_file: str = ""
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    vddk_dir: str = ""
    exports: ExportHost | None = None


class ToMover(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of frames to a mover."""


class MoverSetup(ToMover, frozen=True, tag=True, kw_only=True):
    """The first frame."""

    host: MoverHost
    spec: AnySpec


class Begin(ToMover, frozen=True, tag=True, kw_only=True):
    order: Order


class NewRules(ToMover, frozen=True, tag=True, kw_only=True):
    rules: TransferRules


class Stop(ToMover, frozen=True, tag=True, kw_only=True):
    """Clean up and end with :class:`Failed` carrying ``errors.Cancelled``."""

    reason: str


class FromMover(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of frames from a mover."""


class Listening(FromMover, frozen=True, tag=True, kw_only=True):
    endpoints: tuple[str, ...]


class Connected(FromMover, frozen=True, tag=True, kw_only=True):
    """Both movers have authenticated each other; told again when the connection broke and goes on.

    ``route``: only the mover that connects can tell it. Of a pair in one process it is the way to the reader of a copy.
    ``notes``: of files that are mounted, why a kernel may show other ones.
    """

    route: Route | None = None
    notes: tuple[str, ...] = ()


class Progressed(FromMover, frozen=True, tag=True, kw_only=True):
    """About twice a second while a transfer runs."""

    counters: TransferCounters


class Finished(FromMover, frozen=True, tag=True, kw_only=True):
    """The last frame of a mover that succeeded."""

    result: MoverResult
    counters: TransferCounters


class Failed(FromMover, frozen=True, tag=True, kw_only=True):
    """The last frame of a mover that failed."""

    error: ErrorRecord
    counters: TransferCounters
