"""Servers: the hypervisors, and their sealed credentials."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from .again import runs_again
from .database import Database
from .errors import InUse
from .rows import NamedRows, require
from .sealing import Sealer
from .tables import jobs, obligations, servers
from .values import ServerEntry

_KIND = "server"
_WHAT = "credentials"


@runs_again
class Servers:
    """The table of servers. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        has_secret = servers.c.secret.is_not(None).label("has_secret")
        self._rows = NamedRows(servers, ServerEntry, _KIND, (has_secret,))

    def add(self, entry: ServerEntry, secret: dict[str, str] | None = None) -> None:
        """Add a server with its credentials (None: it needs none). Raises ``AlreadyExists`` or ``ConfigInvalid``."""
        sealed = self._sealed(entry.name, secret)
        with self._database.writing() as connection:
            self._rows.add(connection, entry, secret=sealed)

    def get(self, name: str) -> ServerEntry:
        """Raises ``NotFound`` with the nearest name."""
        with self._database.reading() as connection:
            return self._rows.get(connection, name)

    def list(self) -> tuple[ServerEntry, ...]:
        """All servers, by name."""
        with self._database.reading() as connection:
            return self._rows.list(connection)

    def update(self, entry: ServerEntry) -> None:
        """Replace plugin and options; the credentials stay. Raises ``NotFound`` or ``ConfigInvalid``."""
        with self._database.writing() as connection:
            self._rows.update(connection, entry)

    def secret(self, name: str) -> dict[str, str]:
        """The credentials; empty without any. Raises ``NotFound``, ``SecretUnreadable``, ``SealingKeyUnusable``."""
        with self._database.reading() as connection:
            require(connection, servers, _KIND, name)
            sealed = connection.execute(select(servers.c.secret).where(servers.c.name == name)).scalar_one()
        if sealed is None:
            return {}
        return msgspec.json.decode(self._sealer.unseal(sealed, _KIND, name, _WHAT), type=dict[str, str])

    def set_secret(self, name: str, secret: dict[str, str] | None) -> None:
        """Replace the credentials, or forget them (None). Raises ``NotFound``."""
        sealed = self._sealed(name, secret)
        with self._database.writing() as connection:
            require(connection, servers, _KIND, name)
            connection.execute(servers.update().where(servers.c.name == name).values(secret=sealed))

    def remove(self, name: str) -> None:
        """Remove a server and its credentials. Raises ``NotFound``, or ``InUse`` with its jobs and obligations."""
        with self._database.writing() as connection:
            require(connection, servers, _KIND, name)
            users = [f"job {job}" for job in connection.scalars(select(jobs.c.name).where(jobs.c.server == name))]
            owed = connection.scalars(select(obligations.c.kind).where(obligations.c.server == name)).all()
            users += [f"{len(owed)} open obligations ({', '.join(sorted(set(owed)))})"] if owed else []
            if users:
                raise InUse(kind=_KIND, name=name, users=", ".join(users))
            self._rows.remove(connection, name)

    def _sealed(self, name: str, secret: dict[str, str] | None) -> bytes | None:
        return self._sealer.seal(msgspec.json.encode(secret), _KIND, name, _WHAT) if secret else None
