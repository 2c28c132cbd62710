"""Which schema a database has, and how it comes to the one that this version of Holdfast needs."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from .again import run_again
from .at_work import at_work
from .database import Database
from .errors import CatalogInUse, CatalogNewer, CatalogOlder

REVISION = "0018"
"""The newest migration. Kept here too, so that opening an up-to-date catalogue need not import Alembic."""

_KNOWN = frozenset(f"{number:04}" for number in range(1, int(REVISION) + 1))


@run_again
def require_current(database: Database) -> None:
    """Raise :class:`CatalogOlder` or :class:`CatalogNewer` unless the schema is the one of this version."""
    with database.reading() as connection:
        found = _found(connection, database)
    if found != REVISION:
        raise CatalogOlder(place=database.place, found=found or "none")


def migrate(database: Database, others_are_dead: bool = False) -> None:
    """Bring the schema to this version's; does nothing when it is there. Safe when several processes do it at once.

    All in one transaction: a crash leaves the schema as it was. Nobody loses the schema that he works with: raises
    :class:`CatalogInUse` (retryable) while a session or the service of the older version runs. A session on another
    host counts, unless ``others_are_dead``; SQLite has no other hosts. Raises :class:`CatalogNewer`.
    """
    with database.reading() as connection:
        if _found(connection, database) == REVISION:
            return
    # Alembic rebuilds tables of SQLite by copy and drop, which must not cascade: no foreign keys on this connection
    plain = Database(database.url, foreign_keys=False)
    try:
        with plain.writing() as connection:
            found = _found(connection, plain)
            if found == REVISION:
                return
            users = at_work(connection, others_are_dead or plain.is_sqlite) if found else []
            if users:
                raise CatalogInUse(place=plain.place, found=found, users=", ".join(users))
            _upgrade(connection)
    finally:
        plain.close()


def _found(connection: Connection, database: Database) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    if found is not None and found not in _KNOWN:
        raise CatalogNewer(place=database.place, found=str(found))
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, REVISION)
