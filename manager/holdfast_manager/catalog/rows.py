"""Between rows and values, and what all tables of named things have in common."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Column, Connection, Table, select
from sqlalchemy.engine import Row
from sqlalchemy.sql import ColumnElement

from holdfast_agent.errors import AlreadyExists, NotFound
from holdfast_agent.model import strict

T = TypeVar("T", bound=msgspec.Struct)
_MADE_BY = {
    "manager": "`holdfast remote add`",
    "agent": "`holdfast agent add`",
    "job": "`holdfast job create`",
    "notifier": "a table notifiers.NAME in the configuration",
    "repository": "`holdfast repository add`",
    "server": "`holdfast server add`",
    "user": "`holdfast user add`",
    "traffic rule": "`holdfast network rule add`",
    "repository group": "`holdfast repository group create`",
}
"""What is told where no name is known at all."""


def columns_of(table: Table, entry_type: type[msgspec.Struct]) -> list[Column[Any]]:
    """The columns of ``table`` that hold the fields of ``entry_type``."""
    names = [field.encode_name for field in msgspec.structs.fields(entry_type)]
    return [table.c[name] for name in names if name in table.c]


def from_row(row: Row[Any], entry_type: type[T]) -> T:
    """The value that a row selected by ``columns_of`` holds."""
    # SQLAlchemy's names are a subclass of str, which msgspec does not take for a field
    return msgspec.convert({str(name): value for name, value in row._mapping.items()}, entry_type)


def to_row(entry: msgspec.Struct) -> dict[str, Any]:
    """Column values of an entry. A number of 0 is left out: the database gives the next one."""
    row: dict[str, Any] = msgspec.to_builtins(entry)
    if row.get("id") == 0:
        del row["id"]
    return row


def insert(connection: Connection, table: Table, row: dict[str, Any]) -> int:
    """Insert into a table with numbered rows; returns the new row's number."""
    number: int = connection.execute(table.insert().values(row).returning(table.c.id)).scalar_one()
    return number


def checked(entry: T, source: str) -> T:
    """``entry``, once its types and bounds are found to hold: constructors of structs check neither.

    Raises :class:`ConfigInvalid`, beginning with ``source``.
    """
    return strict.convert(msgspec.to_builtins(entry), type(entry), source)


def require(connection: Connection, table: Table, kind: str, name: str) -> None:
    """Raise :class:`NotFound` with the nearest name unless the row exists; ``table`` has a column ``name``."""
    if connection.execute(select(table.c.name).where(table.c.name == name)).first() is None:
        raise missing(connection, table, kind, name)


def missing(connection: Connection, table: Table, kind: str, name: str) -> NotFound:
    """The error for a name that is not in ``table``."""
    return not_found(kind, name, connection.scalars(select(table.c.name)).all())


def not_found(kind: str, name: str, known: Sequence[str]) -> NotFound:
    """The error for a name that is not among ``known``, with advice to the nearest."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        advice = f"Did you mean {close[0]!r}?"
    elif known:
        advice = f"Known: {', '.join(sorted(known)[:8])}{', …' if len(known) > 8 else ''}"
    else:
        advice = f"There is no {kind} yet; {_MADE_BY[kind]} makes one"
    return NotFound(kind=kind, name=name, advice=advice)


class NamedRows(Generic[T]):
    """Rows with a unique name, each holding one value. Works inside the transactions of its owner."""

    def __init__(
        self, table: Table, entry_type: type[T], kind: str, computed: Sequence[ColumnElement[Any]] = ()
    ) -> None:
        self.table = table
        self.kind = kind
        self._entry_type = entry_type
        self._stored = columns_of(table, entry_type)
        self._select = select(*self._stored, *computed)

    def get(self, connection: Connection, name: str) -> T:
        """Raises :class:`NotFound`."""
        row = connection.execute(self._select.where(self.table.c.name == name)).first()
        if row is None:
            raise missing(connection, self.table, self.kind, name)
        return from_row(row, self._entry_type)

    def list(self, connection: Connection) -> tuple[T, ...]:
        """All, by name."""
        rows = connection.execute(self._select.order_by(self.table.c.name))
        return tuple(from_row(row, self._entry_type) for row in rows)

    def add(self, connection: Connection, entry: T, **more: Any) -> None:
        """Insert; ``more`` are values of columns that the entry does not hold. Raises :class:`AlreadyExists`."""
        row = self._row(entry)
        found = connection.execute(select(self.table.c.name).where(self.table.c.name == row["name"]))
        if found.first() is not None:
            raise AlreadyExists(kind=self.kind, name=row["name"])
        connection.execute(self.table.insert().values(**row, **more))

    def update(self, connection: Connection, entry: T, **more: Any) -> None:
        """Replace what the entry holds (and ``more``). Raises :class:`NotFound`."""
        row = self._row(entry)
        require(connection, self.table, self.kind, row["name"])
        connection.execute(self.table.update().where(self.table.c.name == row["name"]).values(**row, **more))

    def remove(self, connection: Connection, name: str) -> None:
        """Raises :class:`NotFound`. Whether the row is in use is the owner's to check before."""
        require(connection, self.table, self.kind, name)
        connection.execute(self.table.delete().where(self.table.c.name == name))

    def _row(self, entry: T) -> dict[str, Any]:
        named = to_row(checked(entry, f"{self.kind} {getattr(entry, 'name', '')!r}"))
        return {column.name: named[column.name] for column in self._stored}
