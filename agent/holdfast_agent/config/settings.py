"""The agent's settings as frozen values; the comments of the TOML template say what each means to people."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path

import msgspec

from holdfast_agent.model.link import LinkTimeouts
from holdfast_agent.model.metrics import parse_place
from holdfast_agent.model.server_rules import parse_server_rule

_LISTEN = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+|\*):(?P<port>[0-9]{1,5})")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_MAX_SLOTS = 256
_MAX_WORKERS = 32
_LEAST_CACHE_BYTES = 16 << 20
_LEAST_SCRATCH_BYTES = 64 << 20
_MAX_PORT, _PORTMAPPER = 65535, 111
_ANY_ADDRESS = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared with, not bound


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _is_one_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Base: a ``ValueError`` of ``__post_init__`` becomes :class:`ConfigInvalid` with the table's name."""

    def _require(self, key: str, good: bool, rule: str) -> None:
        if not good:
            raise ValueError(f"{key} must be {rule}")

    def _require_directories(self, paths: tuple[str, ...]) -> None:
        self._require("paths", bool(paths), "a list of at least one directory: a role without any can do nothing")
        for path in paths:
            self._require("paths", Path(path).is_absolute(), f"absolute directories; {path!r} is not")


class ControlSettings(_Settings, frozen=True, kw_only=True):
    """Where managers reach the Transport Service. Port 0 takes a free one (for tests)."""

    listen: str = "tcp://0.0.0.0:8430"

    def __post_init__(self) -> None:
        match = _LISTEN.fullmatch(self.listen)
        good = match is not None and int(match["port"]) <= 65535
        self._require("listen", good, f"tcp://ADDRESS:PORT with a port of 0 to 65535; {self.listen!r} is not")


class DataSettings(_Settings, frozen=True, kw_only=True):
    """Where movers listen for movers. ``port_range`` is inclusive; [0, 0] takes any free port.

    ``advertised_address``: one address, or several of a host in several networks. ``silence_s`` and ``resume_s``:
    :class:`LinkTimeouts`.
    """

    listen_address: str = "0.0.0.0"  # noqa: S104 - movers admit nobody without their task's secret
    advertised_address: str | tuple[str, ...] = ""
    port_range: tuple[int, int] = (8440, 8499)
    silence_s: float = LinkTimeouts().silence_s
    resume_s: float = LinkTimeouts().resume_s

    def __post_init__(self) -> None:
        first, last = self.port_range
        good = (first, last) == (0, 0) or 1 <= first <= last <= 65535
        self._require("port_range", good, "[first, last] with 1 <= first <= last <= 65535, or [0, 0] for any")
        self._require("silence_s", 1 <= self.silence_s <= 3600, "1 to 3600 seconds")
        self._require("resume_s", 0 <= self.resume_s <= 86400, "0 (never resume) to 86400 seconds")
        several = isinstance(self.advertised_address, str) or all(self.advertised_address)
        self._require("advertised_address", several, "an address, or a list of addresses none of which is empty")

    @property
    def link(self) -> LinkTimeouts:
        return LinkTimeouts(silence_s=self.silence_s, resume_s=self.resume_s)

    @property
    def told_addresses(self) -> tuple[str, ...]:
        """The addresses that peers are told: as configured, else where it listens, else this host's name."""
        if self.advertised_address:
            several = self.advertised_address
            return (several,) if isinstance(several, str) else several
        return (socket.getfqdn() if self.listen_address in _ANY_ADDRESS else self.listen_address,)


class ProxySettings(_Settings, frozen=True, kw_only=True):
    """The role proxy. ``slots`` 0: one task per core. ``workers``: threads of a mover, 0: one per core, at most 4.

    ``servers``: rules of :mod:`holdfast_agent.model.server_rules`; the files of TLS are in PEM.
    ``vddk_dir``: the directory of VMware's Virtual Disk Development Kit.
    """

    paths: tuple[str, ...]
    servers: tuple[str, ...] = ()
    tls_ca_file: str = ""
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    vddk_dir: str = ""
    slots: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        self._require_directories(self.paths)
        self._require("slots", 0 <= self.slots <= _MAX_SLOTS, f"0 (one per core) to {_MAX_SLOTS}")
        for rule in self.servers:
            parse_server_rule(rule)
        for key in ("tls_ca_file", "tls_certificate_file", "tls_key_file", "vddk_dir"):
            path = getattr(self, key)
            self._require(key, not path or Path(path).is_absolute(), "an absolute path, or empty")
        self._require("workers", 0 <= self.workers <= _MAX_WORKERS, f"0 (one per core, at most 4) to {_MAX_WORKERS}")

    @property
    def slot_count(self) -> int:
        return self.slots or _cores()

    @property
    def worker_count(self) -> int:
        return self.workers or min(4, _cores())


class ExportSettings(_Settings, frozen=True, kw_only=True):
    """How a proxy exports restore points over NBD, and over NFS to hosts that mount datastores.

    ``directory``: where writable exports keep what was written; empty: in the state directory. ``cache_bytes``: of
    decoded blocks in the memory of each exporter. Without all three files of TLS (PEM) nothing is exported by NBD over
    TCP. ``nfs_addresses``: of this host; each serves one export over NFS at a time, on ``nfs_port`` and, for the
    portmapper, 111; empty: nothing is exported over NFS. ``nfs_scratch_bytes``: what a host may write there beside the
    disks of one export (swap file, logs, snapshots).
    """

    directory: str = ""
    cache_bytes: int = 256 << 20
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""
    nfs_addresses: tuple[str, ...] = ()
    nfs_port: int = 2049
    nfs_scratch_bytes: int = 16 << 30

    def __post_init__(self) -> None:
        for key in ("directory", "tls_certificate_file", "tls_key_file", "tls_client_ca_file"):
            path = getattr(self, key)
            self._require(key, not path or Path(path).is_absolute(), "an absolute path, or empty")
        self._require("cache_bytes", self.cache_bytes >= _LEAST_CACHE_BYTES, f"at least {_LEAST_CACHE_BYTES}")
        good = all(_is_one_address(address) for address in self.nfs_addresses)
        self._require("nfs_addresses", good, "addresses of this host in numbers, none of them a wildcard")
        good = 0 < self.nfs_port <= _MAX_PORT and self.nfs_port != _PORTMAPPER
        self._require("nfs_port", good, f"1 to {_MAX_PORT}, and not {_PORTMAPPER}, which is the portmapper's")
        least = _LEAST_SCRATCH_BYTES
        self._require("nfs_scratch_bytes", self.nfs_scratch_bytes >= least, f"at least {least}")


class RepositorySettings(_Settings, frozen=True, kw_only=True):
    """The role repository. ``slots`` 0: two tasks per core, for a target mover only checks and appends.

    ``immutable_helper``: socket of the program that marks protected points as immutable; empty: nobody does.
    """

    paths: tuple[str, ...]
    slots: int = 0
    immutable_helper: str = ""

    def __post_init__(self) -> None:
        self._require_directories(self.paths)
        good = not self.immutable_helper or Path(self.immutable_helper).is_absolute()
        self._require("immutable_helper", good, "the absolute path of a socket, or empty")
        self._require("slots", 0 <= self.slots <= _MAX_SLOTS, f"0 (two per core) to {_MAX_SLOTS}")

    @property
    def slot_count(self) -> int:
        return self.slots or 2 * _cores()


class MetricsSettings(_Settings, frozen=True, kw_only=True):
    """Where Prometheus reads the agent's metrics: "ADDRESS:PORT"; empty: nowhere."""

    listen: str = ""

    def __post_init__(self) -> None:
        if self.listen:
            parse_place(self.listen)


class AgentSettings(_Settings, frozen=True, kw_only=True):
    """All of an agent's configuration. A role is there if its table is."""

    name: str = ""
    state_dir: str = "/var/lib/holdfast-agent"
    authorised_keys: str = ""
    log_level: str = "info"
    control: ControlSettings = ControlSettings()
    data: DataSettings = DataSettings()
    export: ExportSettings = ExportSettings()
    metrics: MetricsSettings = MetricsSettings()
    proxy: ProxySettings | None = None
    repository: RepositorySettings | None = None

    def __post_init__(self) -> None:
        self._require("state_dir", Path(self.state_dir).is_absolute(), "an absolute path")
        good = not self.authorised_keys or Path(self.authorised_keys).is_absolute()
        self._require("authorised_keys", good, "an absolute path, or empty for the file in state_dir")
        self._require("log_level", self.log_level in _LOG_LEVELS, f"one of {', '.join(_LOG_LEVELS)}")
        self._require("name", len(self.name) <= 64 and self.name.isprintable(), "at most 64 printable characters")

    @property
    def agent_name(self) -> str:
        """The name shown to managers: as configured, else the host's."""
        return self.name or socket.gethostname()

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(role for role in ("proxy", "repository") if getattr(self, role) is not None)

    @property
    def disk_paths(self) -> tuple[str, ...]:
        return self.proxy.paths if self.proxy else ()

    @property
    def repository_paths(self) -> tuple[str, ...]:
        return self.repository.paths if self.repository else ()

    @property
    def immutable_helper(self) -> str:
        return self.repository.immutable_helper if self.repository else ""

    @property
    def secret_key_file(self) -> Path:
        return Path(self.state_dir) / "agent.key"

    @property
    def authorised_keys_file(self) -> Path:
        return Path(self.authorised_keys or Path(self.state_dir) / "authorised_keys")

    @property
    def tokens_file(self) -> Path:
        """One-time tokens that may still be used; see ``channel.enrolment_tokens``."""
        return Path(self.state_dir) / "tokens"

    @property
    def endpoint_file(self) -> Path:
        """Where the running agent writes the endpoint that it really listens on."""
        return Path(self.state_dir) / "endpoint"

    @property
    def lock_file(self) -> Path:
        """Held by the running agent, so that there is one for each state directory."""
        return Path(self.state_dir) / "lock"

    @property
    def clock_file(self) -> Path:
        """What the agent knows of the time that has really passed; see ``service.trusted_clock``."""
        return Path(self.state_dir) / "clock"

    @property
    def cache_dir(self) -> Path:
        """Host-local caches of repositories; may be deleted at any time while the agent is stopped."""
        return Path(self.state_dir) / "cache"

    @property
    def export_dir(self) -> Path:
        """Folders of exports: sockets, and what was written to exports that are writable."""
        return Path(self.export.directory or Path(self.state_dir) / "exports")

    @property
    def runtime_dir(self) -> Path:
        """Private sockets of movers; emptied at every start."""
        return Path(self.state_dir) / "run"
