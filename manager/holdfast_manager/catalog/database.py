"""Connections and transactions. The only place that knows how SQLite must be treated when many processes use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.engine import URL, Engine, ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, OperationalError

from holdfast_agent.errors import ConfigInvalid, Locked

from ..settings import ManagerSettings
from .commits import CommitMarks, Mark
from .errors import CatalogUnavailable, ConnectionCut

_CONFIGURATION, _KEY = "manager configuration", "database.url"
_WRITER_LOCK = 0x486F6C64  # any number that other programs of the same database are unlikely to take
_SAYS_LOCKED = ("locked", "lock timeout")  # SQLite's word and PostgreSQL's
_AWAY = ("08", "57P")  # classes of PostgreSQL's SQLSTATE: connection lost, server stopping or starting
_RECONNECT_S = 0.5
_FIRST_S = 10.0  # for a server that never answered: it may just be restarted, but more likely the URL is wrong
_BUSY_S = 30.0  # writers hold the file for milliseconds; only a stopped process or a dying disk takes this long


class Database:
    """A pool of connections to the catalogue. Thread-safe; not to be used across ``fork``.

    SQLite runs with its rollback journal: the WAL of the versions that distributions ship (3.40 here) can corrupt a
    file that several connections write and checkpoint. ``synchronous=EXTRA`` syncs the directory
    too after a commit, because an obligation must not be lost by a power cut right after it was written. Writers
    begin with BEGIN IMMEDIATE: a transaction that reads first and writes later could otherwise fail in the middle.

    On PostgreSQL writers take one advisory lock in turn. They decide by what they read (slots, shares of limits), so
    two of them at once would give the same thing out twice; and they are as short there as they are here. Readers get
    one state of the database (REPEATABLE READ). A server that is restarted is waited for, and asked whether it has
    carried a commit out whose answer did not come: a transaction that fails is undone for sure.
    """

    def __init__(self, url: URL, foreign_keys: bool = True) -> None:
        self.url = url
        self.place = self.url.database or "" if self.is_sqlite else self.url.render_as_string(hide_password=True)
        self._engine = _engine(self.url)
        self._writer = self._engine.execution_options(holdfast_writes=True)
        self._reader = self._engine
        self._writers = threading.Lock()
        self._marks = CommitMarks()
        self._seen = False  # whether the server has answered once, so that it is worth waiting for
        if self.is_sqlite:
            _treat_as_sqlite(self._engine, foreign_keys)
        else:
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            _serialise_writers(self._engine)
            _recognise_cuts(self._engine)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database of one host."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: sees one state of the database. Keep it short, it holds off writers' commits."""
        with self._transaction(self._reader) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction: waits for its turn, commits when the block ends, rolls back when it raises.

        Durable when this returns. Not to be nested. Raises :class:`Locked` (retryable) when its turn does not come
        within 30 s, and :class:`CatalogUnavailable`; :class:`ConnectionCut` of a transaction that may be run again.
        """
        with self._turn(), self._transaction(self._writer) as connection:
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite's writers sleep and try again; threads of this process wait here, and go on at once."""
        if not self.is_sqlite:
            yield
            return
        if not self._writers.acquire(timeout=_BUSY_S):
            raise Locked(what="the configuration database", holder="another thread of this process")
        try:
            yield
        finally:
            self._writers.release()

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        mark, connected = None, False
        try:
            with self._connect(engine) as connection:
                connected = True
                with connection.begin():
                    yield connection
                    mark = self._leave_mark(connection)
        except IntegrityError as error:
            # checks inside the transaction name the cause; this is left for two hosts racing on a shared server
            raise Locked(
                what="an entry of the configuration database", holder=f"another process: {error.orig}"
            ) from error
        except DBAPIError as error:
            if any(word in str(error.orig) for word in _SAYS_LOCKED):
                raise Locked(what="the configuration database", holder="another process") from error
            if not connected or not error.connection_invalidated:
                raise CatalogUnavailable(place=self.place, reason=str(error.orig)) from error
            if mark is None or not self._was_committed(mark):
                raise ConnectionCut(place=self.place, reason=str(error.orig)) from error
        if mark is not None:
            self._marks.committed(mark)

    def _leave_mark(self, connection: Connection) -> Mark | None:
        writes = connection.get_execution_options().get("holdfast_writes", False)
        return self._marks.leave(connection) if writes and not self.is_sqlite else None

    def _was_committed(self, mark: Mark) -> bool:
        """Asked as a writer, so that the transaction has ended: it held the writers' lock as long as it lived."""
        give_up = time.monotonic() + _BUSY_S
        while True:
            try:
                with self._connect(self._writer) as connection, connection.begin():
                    return self._marks.is_there(connection, mark)
            except DBAPIError as error:
                if not error.connection_invalidated or time.monotonic() >= give_up:
                    reason = f"{error.orig}; whether the last change was carried out is not known"
                    raise CatalogUnavailable(place=self.place, reason=reason) from error

    def _connect(self, engine: Engine) -> Connection:
        """A connection; a server that was there is waited for as long as a busy one, another for some seconds.

        Raises ``OperationalError``.
        """
        patience_s = _BUSY_S if self._seen else 0.0 if self.is_sqlite else _FIRST_S
        give_up = time.monotonic() + patience_s
        while True:
            try:
                connection = engine.connect()
            except OperationalError as error:
                if not _is_away(error.orig) or time.monotonic() >= give_up:
                    raise
                time.sleep(_RECONNECT_S)
            else:
                self._seen = True
                return connection

    def keep_connection(self) -> Connection:
        """A connection without transactions, which the caller keeps and closes: for locks that last as long as it.

        Raises :class:`CatalogUnavailable`.
        """
        try:
            return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        except DBAPIError as error:
            raise CatalogUnavailable(place=self.place, reason=str(error.orig)) from error

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._engine.dispose()


def url_of(settings: ManagerSettings) -> URL:
    """Where the settings say that the catalogue is. Raises :class:`ConfigInvalid`."""
    url = settings.database.url
    if not url:
        return URL.create("sqlite", database=str(settings.catalog_file))
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        reason = "not a database URL; write for example sqlite:////var/lib/holdfast/catalog.db"
        raise ConfigInvalid(file=_CONFIGURATION, key=_KEY, reason=reason) from error
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        return create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_S})
    try:
        return create_engine(url, hide_parameters=True, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        reason = f'{error.name} is not installed; for PostgreSQL: pip install "holdfast[postgresql]"'
        raise ConfigInvalid(file=_CONFIGURATION, key=_KEY, reason=reason) from error


def _is_away(error: BaseException | None) -> bool:
    """Whether the server cannot be reached now; not that it refuses us. Its own errors have a state."""
    state = getattr(error, "sqlstate", None)
    return state is None or state.startswith(_AWAY)


def _treat_as_sqlite(engine: Engine, foreign_keys: bool) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # pysqlite must not begin transactions on its own: `begin` below does
        for pragma in ("journal_mode=DELETE", "synchronous=EXTRA", f"foreign_keys={'ON' if foreign_keys else 'OFF'}"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("holdfast_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _serialise_writers(engine: Engine) -> None:
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("holdfast_writes", False):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(_BUSY_S)}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


def _recognise_cuts(engine: Engine) -> None:
    """A connection cut in the middle of a pipeline may fail in ways that psycopg itself does not see as that."""

    @event.listens_for(engine, "handle_error")
    def recognise(context: ExceptionContext) -> None:
        if isinstance(context.sqlalchemy_exception, OperationalError) and _is_away(context.original_exception):
            context.is_disconnect = True
