"""Repositories: where each is, and its sealed master key."""

from __future__ import annotations

from sqlalchemy import select

from holdfast_agent.errors import NotFound

from .again import runs_again
from .database import Database
from .errors import InUse
from .groups import require_new_name, require_unused
from .rows import NamedRows, require
from .sealing import Sealer
from .tables import agents, repositories, repository_groups
from .values import RepositoryEntry

_KIND = "repository"
_WHAT = "master key"


@runs_again
class Repositories:
    """The table of repositories. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._rows = NamedRows(repositories, RepositoryEntry, _KIND)

    def add(self, entry: RepositoryEntry, master_key: bytes | None = None) -> None:
        """Add a repository, with the key of an encrypted one.

        Raises ``AlreadyExists``, ``NotFound`` (the agent) or ``ConfigInvalid``.
        """
        sealed = self._sealed(entry.name, master_key)
        with self._database.writing() as connection:
            require(connection, agents, "agent", entry.agent)
            require_new_name(connection, entry.name)
            self._rows.add(connection, entry, master_key=sealed)

    def get(self, name: str) -> RepositoryEntry:
        """Raises ``NotFound`` with the nearest name, or what to do where it is a group's."""
        with self._database.reading() as connection:
            group = connection.scalar(select(repository_groups.c.name).where(repository_groups.c.name == name))
            if group is not None:
                advice = f"{name!r} is a group; `holdfast repository group show {name}` names its members"
                raise NotFound(kind="repository", name=name, advice=advice)
            return self._rows.get(connection, name)

    def list(self) -> tuple[RepositoryEntry, ...]:
        """All repositories, by name."""
        with self._database.reading() as connection:
            return self._rows.list(connection)

    def update(self, entry: RepositoryEntry) -> None:
        """Replace everything but the name and the key. Raises ``NotFound`` (also of the agent) or ``ConfigInvalid``."""
        with self._database.writing() as connection:
            require(connection, agents, "agent", entry.agent)
            self._rows.update(connection, entry)

    def set_sealed(self, name: str, sealed: bool) -> RepositoryEntry:
        """Whether it takes new points from now on; sessions that run see it when they place their next VM.

        Raises ``NotFound``.
        """
        with self._database.writing() as connection:
            require(connection, repositories, _KIND, name)
            connection.execute(repositories.update().where(repositories.c.name == name).values(sealed=sealed))
            return self._rows.get(connection, name)

    def master_key(self, name: str) -> bytes | None:
        """The key, or None when none is kept. Raises ``NotFound``, ``SecretUnreadable``, ``SealingKeyUnusable``."""
        with self._database.reading() as connection:
            require(connection, repositories, _KIND, name)
            query = select(repositories.c.master_key).where(repositories.c.name == name)
            sealed = connection.execute(query).scalar_one()
        return None if sealed is None else self._sealer.unseal(sealed, _KIND, name, _WHAT)

    def set_master_key(self, name: str, master_key: bytes | None) -> None:
        """Keep another key, or forget it (None). Raises ``NotFound``."""
        sealed = self._sealed(name, master_key)
        with self._database.writing() as connection:
            require(connection, repositories, _KIND, name)
            connection.execute(repositories.update().where(repositories.c.name == name).values(master_key=sealed))

    def epoch(self, name: str) -> int:
        """The highest key epoch that was ever seen of a repository. Raises ``NotFound``."""
        with self._database.reading() as connection:
            require(connection, repositories, _KIND, name)
            found: int = connection.execute(
                select(repositories.c.epoch).where(repositories.c.name == name)
            ).scalar_one()
            return found

    def raise_epoch(self, name: str, epoch: int) -> None:
        """Remember a key epoch; one that is lower than what was seen before changes nothing."""
        older = (repositories.c.name == name) & (repositories.c.epoch < epoch)
        with self._database.writing() as connection:
            connection.execute(repositories.update().where(older).values(epoch=epoch))

    def remove(self, name: str) -> None:
        """Forget a repository, its key and the catalogue's rows of its points; the repository itself is untouched.

        Raises ``NotFound``, or ``InUse`` with the jobs that write to it or copy from it, or with its group.
        """
        with self._database.writing() as connection:
            require(connection, repositories, _KIND, name)
            require_unused(connection, _KIND, name)
            group = self._rows.get(connection, name).member_of
            if group is not None:
                raise InUse(kind=_KIND, name=name, users=f"repository group {group}")
            self._rows.remove(connection, name)

    def _sealed(self, name: str, master_key: bytes | None) -> bytes | None:
        return None if master_key is None else self._sealer.seal(master_key, _KIND, name, _WHAT)
