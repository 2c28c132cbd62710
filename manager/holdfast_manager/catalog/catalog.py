"""The catalogue as a whole: opened once per process, one small object per table."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

from holdfast_agent.errors import AlreadyExists

from ..settings import ManagerSettings, NotifierSettings
from .agents import Agents
from .approvals import Approvals
from .audit import Audit
from .database import Database, url_of
from .errors import CatalogMissing, CatalogUnavailable
from .events import Events
from .groups import RepositoryGroups
from .history import History
from .jobs import Jobs
from .notices import Notices
from .obligations import Obligations
from .pending_points import PendingPoints
from .points import Points
from .repositories import Repositories
from .runs import JobRuns
from .schema import migrate, require_current
from .sealing import Sealer, make_key_file
from .servers import Servers
from .services import Services
from .sessions import Sessions
from .tasks import Tasks
from .traffic_rules import TrafficRules
from .users import Users


class Catalog:
    """The configuration database. Thread-safe; many processes may have the same one open.

    Every method of the tables is a transaction of its own, and durable when it returns. Methods raise ``Locked``
    (retryable) when the database stays busy for 30 s and ``CatalogUnavailable`` when it cannot be used. A context
    manager: leaving closes it. ``clock`` gives Unix seconds. ``notifiers``: who is told of the ends of sessions.
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        clock: Callable[[], float] = time.time,
        notifiers: Mapping[str, NotifierSettings] = MappingProxyType({}),
    ) -> None:
        self.database = database
        self.servers = Servers(database, sealer)
        self.agents = Agents(database)
        self.repositories = Repositories(database, sealer)
        self.groups = RepositoryGroups(database)
        self.jobs = Jobs(database)
        self.runs = JobRuns(database)
        self.services = Services(database, clock)
        self.notices = Notices(database, clock, notifiers)
        self.sessions = Sessions(database, clock, self.notices)
        self.tasks = Tasks(database)
        self.events = Events(database)
        self.history = History(database, clock)
        self.points = Points(database)
        self.pending_points = PendingPoints(database)
        self.traffic_rules = TrafficRules(database)
        self.obligations = Obligations(database, clock)
        self.users = Users(database, clock)
        self.audit = Audit(database, sealer, clock)
        self.approvals = Approvals(database, clock)

    @classmethod
    def create(cls, settings: ManagerSettings, clock: Callable[[], float] = time.time) -> Catalog:
        """Make data directory (0700), sealing key (0600) and database (0600), as `holdfast init` does.

        May be repeated after a crash half-way. Raises ``AlreadyExists`` when there is a catalogue already.
        """
        with _as_unavailable(settings.home):
            settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_key_file(settings.sealing_key_file)
        database = new_database(settings)
        try:
            migrate(database)
        except BaseException:
            database.close()
            raise
        return cls(database, Sealer(settings.sealing_key_file), clock, settings.notifiers)

    @classmethod
    def open(cls, settings: ManagerSettings, clock: Callable[[], float] = time.time) -> Catalog:
        """Open what `holdfast init` made. An older SQLite schema is migrated on the way.

        Raises ``CatalogMissing``, ``CatalogNewer``, ``CatalogOlder`` (PostgreSQL), ``CatalogInUse`` or
        ``CatalogUnavailable``.
        """
        database = Database(url_of(settings))
        try:
            if not database.is_sqlite:
                require_current(database)
            elif Path(database.place).exists():
                migrate(database)
            else:
                raise CatalogMissing(place=database.place)
        except BaseException:
            database.close()
            raise
        return cls(database, Sealer(settings.sealing_key_file), clock, settings.notifiers)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.database.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def new_database(settings: ManagerSettings) -> Database:
    """A database that is to hold a catalogue; on SQLite its file is made (0600). Raises ``AlreadyExists`` there."""
    database = Database(url_of(settings))
    if database.is_sqlite:
        _make_file(Path(database.place))
    return database


def _make_file(path: Path) -> None:
    """An empty file is an empty database; made here because SQLite would let others read it."""
    with _as_unavailable(path):
        if path.exists() and path.stat().st_size > 0:
            raise AlreadyExists(kind="configuration database", name=str(path))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


@contextlib.contextmanager
def _as_unavailable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CatalogUnavailable(place=str(path), reason=error.strerror or str(error)) from error
