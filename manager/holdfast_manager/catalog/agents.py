"""Agents: the hosts that move and keep data."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from .again import runs_again
from .database import Database
from .errors import InUse
from .rows import NamedRows, require
from .tables import agents, jobs, repositories
from .values import AgentEntry, AgentRole

_KIND = "agent"


@runs_again
class Agents:
    """The table of agents. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = NamedRows(agents, AgentEntry, _KIND)

    def add(self, entry: AgentEntry) -> None:
        """Raises ``AlreadyExists`` or ``ConfigInvalid``."""
        with self._database.writing() as connection:
            self._rows.add(connection, entry)

    def get(self, name: str) -> AgentEntry:
        """Raises ``NotFound`` with the nearest name."""
        with self._database.reading() as connection:
            return self._rows.get(connection, name)

    def list(self) -> tuple[AgentEntry, ...]:
        """All agents, by name."""
        with self._database.reading() as connection:
            return self._rows.list(connection)

    def proxies(self, preferred: Sequence[str] = ()) -> tuple[str, ...]:
        """Names of all enabled agents with the role proxy: those of ``preferred`` first and in that order."""
        usable = [entry.name for entry in self.list() if entry.enabled and AgentRole.PROXY in entry.roles]
        first = [name for name in dict.fromkeys(preferred) if name in usable]
        return (*first, *(name for name in usable if name not in first))

    def update(self, entry: AgentEntry) -> None:
        """Replace everything but the name. Raises ``NotFound`` or ``ConfigInvalid``."""
        with self._database.writing() as connection:
            self._rows.update(connection, entry)

    def remove(self, name: str) -> None:
        """Raises ``NotFound``, or ``InUse`` with the repositories on it and the jobs that prefer it as a proxy."""
        with self._database.writing() as connection:
            require(connection, agents, _KIND, name)
            held = connection.scalars(select(repositories.c.name).where(repositories.c.agent == name))
            users = [f"repository {repository}" for repository in held]
            specs = connection.scalars(select(jobs.c.spec))
            users += [f"job {spec['name']}" for spec in specs if name in spec.get("proxies", ())]
            if users:
                raise InUse(kind=_KIND, name=name, users=", ".join(users))
            self._rows.remove(connection, name)
