"""The whole catalogue from one database into another, from SQLite to PostgreSQL or back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, func, select, text
from sqlalchemy.engine import Row

from holdfast_agent.errors import Locked

from .database import Database
from .errors import CatalogCopyDiffers, CatalogNotEmpty
from .schema import migrate, require_current
from .tables import commits, metadata, services, sessions, slot_requests, slot_rounds, transfers
from .values import SessionState

_BATCH_ROWS = 1000
_PASSING = (slot_requests, slot_rounds, transfers, services, commits)
"""Without living sessions nothing in them counts any more."""


def copy_catalog(source: Database, target: Database) -> dict[str, int]:
    """Copy everything into ``target``, which must be empty; returns the rows of each table.

    Numbers stay, and so does the next number of each table: none is ever used twice. In one transaction, in which
    nobody else writes to either; at its end every row is read back and compared. A crash or an error leaves
    ``target`` as it was, but for its empty tables. Raises ``Locked`` while sessions live, ``CatalogNotEmpty``,
    ``CatalogOlder`` or ``CatalogNewer`` for the source, ``CatalogCopyDiffers``.
    """
    require_current(source)
    migrate(target)
    with source.writing() as old, target.writing() as new:
        _refuse_living(old)
        _require_empty(new, target)
        copied = {}
        for table in metadata.sorted_tables:
            copied[table.name] = 0 if table in _PASSING else _copy(old, new, table)
            _copy_counter(old, new, table)
        for table in metadata.sorted_tables:
            if table not in _PASSING:
                _compare(old, new, table)
    return copied


def _refuse_living(connection: Connection) -> None:
    living = connection.scalar(select(sessions.c.id).where(sessions.c.state != SessionState.ENDED.value).limit(1))
    if living is not None:
        raise Locked(what="the configuration database", holder=f"session {living}, which has not ended")


def _require_empty(connection: Connection, target: Database) -> None:
    for table in metadata.sorted_tables:
        if table is not commits and connection.scalar(select(func.count()).select_from(table)):
            raise CatalogNotEmpty(place=target.place, table=table.name)


def _copy(old: Connection, new: Connection, table: Table) -> int:
    count = 0
    rows = _rows(old, table)
    while batch := [dict(row._mapping) for row in islice(rows, _BATCH_ROWS)]:
        new.execute(table.insert(), batch)
        count += len(batch)
    return count


def _compare(old: Connection, new: Connection, table: Table) -> None:
    theirs = _rows(new, table)
    for mine in _rows(old, table):
        if next(theirs, None) != mine:
            raise CatalogCopyDiffers(table=table.name, key=", ".join(map(str, _key(table, mine))))
    if next(theirs, None) is not None:
        raise CatalogCopyDiffers(table=table.name, key="more rows than there were")


def _rows(connection: Connection, table: Table) -> Iterator[Row[Any]]:
    """All rows in an order that both databases have: names are compared byte by byte."""
    plain = [
        column if not hasattr(column.type, "collation") or connection.dialect.name == "sqlite" else column.collate("C")
        for column in table.primary_key.columns
    ]
    query = select(table).order_by(*plain).execution_options(yield_per=_BATCH_ROWS)
    with connection.execute(query) as result:
        yield from result


def _key(table: Table, row: Row[Any]) -> list[Any]:
    return [row._mapping[column.name] for column in table.primary_key.columns]


def _copy_counter(old: Connection, new: Connection, table: Table) -> None:
    if table.dialect_options["sqlite"]["autoincrement"]:
        last = _last_number(old, table)
        if last:
            _set_last_number(new, table, last)


def _last_number(connection: Connection, table: Table) -> int:
    """The highest number that was ever given in the table, by a row that may be gone; 0 for none."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        return connection.scalar(query, {"name": table.name}) or 0
    query = text("SELECT last_value FROM pg_sequences WHERE schemaname = current_schema() AND sequencename = :name")
    return connection.scalar(query, {"name": f"{table.name}_id_seq"}) or 0


def _set_last_number(connection: Connection, table: Table, last: int) -> None:
    values = {"name": table.name, "last": last}
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT setval(pg_get_serial_sequence(:name, 'id'), :last)"), values)
    elif connection.execute(text("UPDATE sqlite_sequence SET seq = :last WHERE name = :name"), values).rowcount == 0:
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)
