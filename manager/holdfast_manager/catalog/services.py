"""Which service leads, for people to see; what makes it lead is a lock."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from sqlalchemy import select

from .again import runs_again
from .database import Database
from .processes import ProcessIdentity
from .tables import services


class Leader(msgspec.Struct, frozen=True):
    """``since``: Unix seconds."""

    process: ProcessIdentity
    since: float


@runs_again
class Services:
    """The table of services. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def lead(self) -> None:
        """The calling process leads from now on."""
        process = msgspec.to_builtins(ProcessIdentity.current())
        with self._database.writing() as connection:
            connection.execute(services.delete())
            connection.execute(services.insert().values(place=1, process=process, since=self._clock()))

    def leader(self) -> Leader | None:
        """Who led last, if anybody ever did."""
        with self._database.reading() as connection:
            row = connection.execute(select(services)).first()
        return None if row is None else Leader(msgspec.convert(row.process, ProcessIdentity), row.since)
