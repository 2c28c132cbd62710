"""Everything that is there after a plan refers only to what is there after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

from holdfast_agent.errors import ConfigInvalid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.rows import not_found
from holdfast_manager.catalog.values import JobSpec, RepositoryGroup

from .document import Document


class Reference(NamedTuple):
    """``key``: of the table that refers to the ``kind`` called ``name``. ``known``: what may be named there."""

    key: str
    kind: str
    name: str
    known: Set[str]

    @property
    def broken(self) -> bool:
        return self.name not in self.known


class References:
    def __init__(self, document: Document, catalog: Catalog, left: Mapping[str, Set[str]]) -> None:
        """``left``: the names of all that will be there, by the file's sections."""
        self._document = document
        self._catalog = catalog
        self._left = left
        self._targets = left["repositories"] | left["repository_groups"]

    def check(self) -> None:
        """Raises :class:`ConfigInvalid` where the file names what will not be there, :class:`InUse` where the file
        says nothing of what refers to something that it removes."""
        for table, reference in self._of_the_file():
            if reference.broken:
                reason = str(not_found(reference.kind, reference.name, sorted(reference.known)))
                raise ConfigInvalid(file=str(self._document.file), key=f"{table}.{reference.key}", reason=reason)
        for user, reference in self._of_what_stays():
            if reference.broken:
                users = f"{user}, which the file does not remove"
                raise InUse(kind=reference.kind, name=reference.name, users=users)

    def _of_the_file(self) -> Iterator[tuple[str, Reference]]:
        """With the table that each stands in."""
        for name, table in self._document.repositories.items():
            yield f"repositories.{name}", self._of_repository(table.agent)
        for name, group in self._document.repository_groups.items():
            yield from ((f"repository_groups.{name}", each) for each in self._of_group(group))
        for name, spec in self._document.jobs.items():
            yield from ((f"jobs.{name}", each) for each in self._of_job(spec))

    def _of_what_stays(self) -> Iterator[tuple[str, Reference]]:
        """What the catalogue has and the file neither says anew nor removes, with who refers."""
        for entry in self._catalog.repositories.list():
            if self._stays("repositories", entry.name):
                yield f"repository {entry.name}", self._of_repository(entry.agent)
        for group in self._catalog.groups.list():
            if self._stays("repository_groups", group.name):
                yield from ((f"repository group {group.name}", each) for each in self._of_group(group))
        for spec in self._catalog.jobs.list():
            if self._stays("jobs", spec.name):
                yield from ((f"job {spec.name}", each) for each in self._of_job(spec))

    def _stays(self, section: str, name: str) -> bool:
        return name in self._left[section] and name not in getattr(self._document, section)

    def _of_repository(self, agent: str) -> Reference:
        return Reference("agent", "agent", agent, self._left["agents"])

    def _of_group(self, group: RepositoryGroup) -> Iterator[Reference]:
        for member in group.members:
            yield Reference("members", "repository", member, self._left["repositories"])

    def _of_job(self, spec: JobSpec) -> Iterator[Reference]:
        if spec.server is not None:
            yield Reference("server", "server", spec.server, self._left["servers"])
        yield Reference("repository", "repository", spec.repository, self._targets)
        if spec.copy is not None:
            yield Reference("copy.from", "repository", spec.copy.origin, self._targets)
        for proxy in spec.proxies:
            yield Reference("proxies", "agent", proxy, self._left["agents"])
        if spec.schedule is not None and spec.schedule.after:
            yield Reference("schedule.after", "job", spec.schedule.after, self._left["jobs"])
