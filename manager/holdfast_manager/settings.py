"""The manager's own configuration: where it keeps its things and how often it looks after them."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from holdfast_agent.errors import ConfigInvalid
from holdfast_agent.model import strict
from holdfast_agent.model.metrics import parse_place

from .places import config_file, data_directory
from .quantities import DURATION, with_numbers

HIDDEN = "***"
_DURATIONS = {
    "timing": ("lease_ttl", "heartbeat", "poll"),
    "history": ("keep", "events"),
    "audit": ("keep",),
    "console": ("objective", "idle"),
}
_USER_SECRET = re.compile(r"(://[^:/@?]*:).*@")
_QUERY_SECRET = re.compile(r"([?&](?:password|passwd|sslpassword|passfile)=)[^&]*", re.IGNORECASE)


NotifierName = Annotated[str, msgspec.Meta(pattern=strict.NAME_PATTERN)]


class LogLevel(StrEnum):
    """How much goes to stderr and the journal; the events of sessions are kept in full whatever this says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Of the service's and the sessions' logs: lines for people, or JSON with the ids of sessions and tasks."""

    TEXT = "text"
    JSON = "json"


class DatabaseSettings(msgspec.Struct, frozen=True):
    """``url``: SQLAlchemy's form; empty: SQLite in the data directory. May hold a password, so it is never shown."""

    url: str = ""

    def __repr__(self) -> str:
        return f"DatabaseSettings(url={without_secret(self.url)!r})"


class PluginSettings(msgspec.Struct, frozen=True):
    """``load``: entry points of ``holdfast.plugins`` to load besides the built-ins. ``disabled``: any to leave out."""

    load: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()


class TimingSettings(msgspec.Struct, frozen=True):
    """Times of a running session, in seconds.

    ``lease_ttl``: how long slots and movers stay with a session that has stopped renewing them (the agents' grace
    time; 60 s survives a restart of a switch, and frees a dead session's slots within a minute). ``heartbeat``:
    between renewals; at most a third of the TTL, so that two may be lost. ``poll``: between looks at the catalogue
    for free slots and stop requests (a look costs under a millisecond; people see no delay under a second).
    """

    lease_ttl: Annotated[float, msgspec.Meta(ge=5, le=3600)] = 60.0
    heartbeat: Annotated[float, msgspec.Meta(ge=0.1, le=1200)] = 10.0
    poll: Annotated[float, msgspec.Meta(ge=0.05, le=60)] = 1.0


class HistorySettings(msgspec.Struct, frozen=True):
    """How much is remembered of sessions that have ended; the service forgets the rest.

    ``keep``: sessions, in seconds (two years). ``sessions``: at most so many (a list of 100,000 is still quick).
    ``events``: what happened in each step, in seconds (half a year); results and figures of disks stay with the
    session. Events take nearly all of the room.
    """

    keep_s: Annotated[float, msgspec.Meta(ge=86400)] = msgspec.field(default=730 * 86400.0, name="keep")
    sessions: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    events_s: Annotated[float, msgspec.Meta(ge=86400)] = msgspec.field(default=180 * 86400.0, name="events")


class AuditSettings(msgspec.Struct, frozen=True):
    """``keep``: how long the audit log remembers who did what, in seconds (five years); the service forgets the rest
    of it."""

    keep_s: Annotated[float, msgspec.Meta(ge=86400)] = msgspec.field(default=5 * 365 * 86400.0, name="keep")


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``listen``: where Prometheus reads the metrics of the service that leads, "ADDRESS:PORT"; empty: nowhere."""

    listen: str = ""

    def __post_init__(self) -> None:
        if self.listen:
            parse_place(self.listen)


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``listen``: where the service that leads takes commands of users on other hosts, "ADDRESS:PORT"; empty:
    nowhere."""

    listen: str = ""

    def __post_init__(self) -> None:
        if self.listen:
            parse_place(self.listen)


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The web console of the service that leads.

    ``listen``: "ADDRESS:PORT"; empty: there is none. ``hosts``: names by which browsers may call it, besides the
    address and this host's own names. ``certificate`` and ``key``: PEM files, absolute; empty: one that it signs
    itself. ``objective``: how old the newest good restore point of a VM may be, in seconds. ``idle``: who has done
    nothing for so long logs in again, in seconds.
    """

    listen: str = ""
    hosts: tuple[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")], ...] = ()
    certificate: str = ""
    key: str = ""
    objective_s: Annotated[float, msgspec.Meta(ge=60)] = msgspec.field(default=86400.0, name="objective")
    idle_s: Annotated[float, msgspec.Meta(ge=60, le=86400)] = msgspec.field(default=1800.0, name="idle")

    def __post_init__(self) -> None:
        if self.listen:
            parse_place(self.listen)
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together: give both, or neither for one that it signs itself")


_Kind = Literal[
    "backup",
    "restore",
    "verify",
    "gc",
    "copy",
    "heal",
    "clean-up",
    "evacuate",
    "export",
    "boot",
    "files",
    "instant",
    "settle",
]


class NotifierSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of which sessions when they end. ``options`` belong to ``plugin``.

    ``results``: sessions that ended so. ``kinds`` and ``jobs`` (names or glob patterns): of these only; none are all.
    Sessions without a job are told of if no jobs are named. ``secret_file``: lines KEY=VALUE, readable by its owner
    only; the plugin says which.
    """

    plugin: str
    options: dict[str, Any] = {}
    secret_file: str = ""
    results: tuple[Literal["success", "warning", "partial", "failed", "cancelled"], ...] = (
        "warning",
        "partial",
        "failed",
    )
    kinds: tuple[_Kind, ...] = ()
    jobs: tuple[str, ...] = ()

    def wants(self, kind: str, job: str, result: str) -> bool:
        """Whether a session of this kind and job that ended so is told of."""
        of_job = not self.jobs or any(fnmatchcase(job, pattern) for pattern in self.jobs if job)
        return result in self.results and (not self.kinds or kind in self.kinds) and of_job


class ManagerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The manager's configuration, read once at start. ``data_dir`` empty: the default place (``home``)."""

    data_dir: str = ""
    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.TEXT
    database: DatabaseSettings = DatabaseSettings()
    plugins: PluginSettings = PluginSettings()
    timing: TimingSettings = TimingSettings()
    history: HistorySettings = HistorySettings()
    audit: AuditSettings = AuditSettings()
    metrics: MetricsSettings = MetricsSettings()
    console: ConsoleSettings = ConsoleSettings()
    api: ApiSettings = ApiSettings()
    notifiers: dict[NotifierName, NotifierSettings] = {}

    @classmethod
    def load(cls, path: Path | None = None) -> ManagerSettings:
        """Read the configuration: ``path`` (the option --config), else $HOLDFAST_CONFIG, else the usual places.

        Without any file all defaults hold. Raises :class:`ConfigNotFound` when a file that was named is missing,
        and any other ``ConfigError`` for what stands in it.
        """
        found = config_file(path)
        if found is None:
            return cls()
        table = strict.read_toml(found, "Give another file by --config or $HOLDFAST_CONFIG")
        return cls.from_table(table, str(found))

    @classmethod
    def from_table(cls, table: dict[str, Any], source: str) -> ManagerSettings:
        """Convert a TOML table; durations may be text. ``source`` names the file in errors (``ConfigError``)."""
        for name, keys in _DURATIONS.items():
            if isinstance(table.get(name), dict):
                table = {**table, name: with_numbers(table[name], dict.fromkeys(keys, DURATION), source, name)}
        settings = strict.convert(table, cls, source)
        settings._check(source)
        return settings

    def _check(self, source: str) -> None:
        if self.data_dir and not Path(self.data_dir).expanduser().is_absolute():
            raise ConfigInvalid(file=source, key="data_dir", reason="write an absolute path, or one that begins with ~")
        for name, notifier in self.notifiers.items():
            if notifier.secret_file and not Path(notifier.secret_file).is_absolute():
                raise ConfigInvalid(file=source, key=f"notifiers.{name}.secret_file", reason="write an absolute path")
        for key in ("certificate", "key"):
            place: str = getattr(self.console, key)
            if place and not Path(place).is_absolute():
                raise ConfigInvalid(file=source, key=f"console.{key}", reason="write an absolute path")
        if self.timing.heartbeat * 3 > self.timing.lease_ttl:
            reason = "must be at most a third of timing.lease_ttl, so that a lost heartbeat loses no lease"
            raise ConfigInvalid(file=source, key="timing.heartbeat", reason=reason)

    @property
    def home(self) -> Path:
        """The data directory: as configured, else $HOLDFAST_HOME, else the user's or the system's usual place."""
        return data_directory(self.data_dir)

    @property
    def catalog_file(self) -> Path:
        """The catalogue on SQLite; where it is kept unless ``database.url`` says otherwise."""
        return self.home / "catalog.db"

    @property
    def sealing_key_file(self) -> Path:
        """The key that seals secrets in the catalogue (0600). Without it they must be given again."""
        return self.home / "catalog.key"

    @property
    def identity_file(self) -> Path:
        """The manager's CURVE key pair (0600), by which agents know it."""
        return self.home / "manager.key"

    @property
    def log_dir(self) -> Path:
        """Where session processes write their stderr: one file per session."""
        return self.home / "logs"

    @property
    def proof_dir(self) -> Path:
        """What boot proofs saw: the last screenshot of each restore point."""
        return self.home / "proofs"

    @property
    def console_dir(self) -> Path:
        """What the web console makes for itself: its certificate and that one's key."""
        return self.home / "console"

    def environment(self, config: Path | None) -> dict[str, str]:
        """Of a process that is to have this configuration: ``config`` is the file that was named, if one was."""
        named = {} if config is None else {"HOLDFAST_CONFIG": str(config.resolve())}
        return {**os.environ, "HOLDFAST_HOME": str(self.home), **named}

    def shown(self) -> dict[str, Any]:
        """The effective configuration as a table for `holdfast config show`: defaults filled in, secrets left out."""
        table: dict[str, Any] = msgspec.to_builtins(self)
        table["data_dir"] = str(self.home)
        table["database"] = {"url": without_secret(self.database.url or f"sqlite:///{self.catalog_file}")}
        return table


def without_secret(url: str) -> str:
    """``url`` with every password in it replaced by stars: in the user part and in the query.

    Hides too much rather than too little: a password that was not percent-encoded may hold any character.
    """
    return _QUERY_SECRET.sub(rf"\1{HIDDEN}", _USER_SECRET.sub(rf"\1{HIDDEN}@", url))
