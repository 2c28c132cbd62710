"""Groups of repositories, and what a name of a repository or a group stands for."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from holdfast_agent.errors import AlreadyExists

from .again import runs_again
from .database import Database
from .errors import InUse
from .rows import checked, columns_of, from_row, missing, not_found, require
from .tables import jobs, repositories, repository_groups
from .values import PlacingPolicy, RepositoryEntry, RepositoryGroup

_KIND = "repository group"
_REPOSITORY = columns_of(repositories, RepositoryEntry)


@runs_again
class RepositoryGroups:
    """The table of groups. Thread-safe; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, group: RepositoryGroup) -> None:
        """Raises ``AlreadyExists`` (also a repository's name), ``NotFound`` or ``InUse`` (of a member)."""
        with self._database.writing() as connection:
            require_new_name(connection, group.name)
            connection.execute(repository_groups.insert().values(_row(group)))
            _join(connection, group)

    def get(self, name: str) -> RepositoryGroup:
        """Raises ``NotFound`` with the nearest name."""
        with self._database.reading() as connection:
            require(connection, repository_groups, _KIND, name)
            return _group(connection, name)

    def list(self) -> tuple[RepositoryGroup, ...]:
        """All groups, by name."""
        with self._database.reading() as connection:
            names = connection.scalars(select(repository_groups.c.name).order_by(repository_groups.c.name)).all()
            return tuple(_group(connection, name) for name in names)

    def update(self, group: RepositoryGroup) -> None:
        """Replace everything but the name; points of a member that leaves stay in it. Raises as :meth:`add`."""
        with self._database.writing() as connection:
            require(connection, repository_groups, _KIND, group.name)
            mine = repository_groups.c.name == group.name
            connection.execute(repository_groups.update().where(mine).values(_row(group)))
            _leave(connection, group.name)
            _join(connection, group)

    def remove(self, name: str) -> None:
        """Remove a group; its members and their points stay. Raises ``NotFound``, or ``InUse`` with the jobs."""
        with self._database.writing() as connection:
            require(connection, repository_groups, _KIND, name)
            require_unused(connection, _KIND, name)
            _leave(connection, name)
            connection.execute(repository_groups.delete().where(repository_groups.c.name == name))

    def behind(self, name: str) -> tuple[RepositoryEntry, ...]:
        """The repositories that ``name`` means, by name: one of its own, or the members of a group.

        Raises ``NotFound`` when it is neither.
        """
        with self._database.reading() as connection:
            require_target(connection, name)
            meant = (repositories.c.name == name) | (repositories.c.member_of == name)
            rows = connection.execute(select(*_REPOSITORY).where(meant).order_by(repositories.c.name))
            return tuple(from_row(row, RepositoryEntry) for row in rows)

    def named(self, name: str) -> RepositoryGroup | None:
        """The group called ``name``; None for a repository. Raises ``NotFound`` when it is neither."""
        with self._database.reading() as connection:
            return _group(connection, name) if require_target(connection, name) else None


def require_target(connection: Connection, name: str) -> bool:
    """Whether ``name`` is a group, rather than a repository. Raises ``NotFound`` when it is neither."""
    if connection.scalar(select(repositories.c.name).where(repositories.c.name == name)) is not None:
        return False
    if connection.scalar(select(repository_groups.c.name).where(repository_groups.c.name == name)) is not None:
        return True
    groups = connection.scalars(select(repository_groups.c.name)).all()
    known = [*connection.scalars(select(repositories.c.name)), *groups]
    raise not_found("repository", name, known) if groups else missing(connection, repositories, "repository", name)


def require_new_name(connection: Connection, name: str) -> None:
    """Raises ``AlreadyExists`` when a repository or a group is called so."""
    for kind, table in (("repository", repositories), (_KIND, repository_groups)):
        if connection.scalar(select(table.c.name).where(table.c.name == name)) is not None:
            raise AlreadyExists(kind=kind, name=name)


def require_unused(connection: Connection, kind: str, name: str) -> None:
    """Raises ``InUse`` with the jobs that write to ``name`` or copy from it."""
    using = (jobs.c.repository == name) | (jobs.c.origin == name)
    users = connection.scalars(select(jobs.c.name).where(using).order_by(jobs.c.name)).all()
    if users:
        raise InUse(kind=kind, name=name, users=", ".join(f"job {job}" for job in users))


def _row(group: RepositoryGroup) -> dict[str, object]:
    table: dict[str, object] = msgspec.to_builtins(checked(group, f"{_KIND} {group.name!r}"))
    del table["members"]
    return table


def _group(connection: Connection, name: str) -> RepositoryGroup:
    row = connection.execute(select(repository_groups).where(repository_groups.c.name == name)).one()
    of_it = select(repositories.c.name).where(repositories.c.member_of == name).order_by(repositories.c.name)
    return RepositoryGroup(
        name=row.name,
        members=tuple(connection.scalars(of_it)),
        policy=PlacingPolicy(row.policy),
        free_floor_bytes=row.free_floor,
        description=row.description,
    )


def _join(connection: Connection, group: RepositoryGroup) -> None:
    for member in group.members:
        require(connection, repositories, "repository", member)
        query = select(repositories.c.member_of).where(repositories.c.name == member)
        other = connection.execute(query).scalar_one()
        if other not in (None, group.name):
            raise InUse(kind="repository", name=member, users=f"{_KIND} {other}")
        mine = repositories.c.name == member
        connection.execute(repositories.update().where(mine).values(member_of=group.name))


def _leave(connection: Connection, name: str) -> None:
    connection.execute(repositories.update().where(repositories.c.member_of == name).values(member_of=None))
