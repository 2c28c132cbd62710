"""How many slots everything has, as the catalogue says at one moment."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import msgspec
from sqlalchemy import Connection, select

from ..catalog.tables import agents, repositories, servers
from ..catalog.values import AgentRole, ServerLimits
from .placement import Need, Rank

PROXY = "proxy"
REPOSITORY = "repository"
HOST = "repository host"
JOB = "job"
SERVER = "server"
HYPERVISOR = "hypervisor host"
DATASTORE = "datastore"
ANY_PROXY = "*"
"""In the place of a proxy's name: any that is enabled. So a queue of thousands does not name them all each time."""

_NO_LIMIT = 1 << 30
_LIMITED = (JOB, SERVER, HYPERVISOR, DATASTORE)
"""Of these whoever is not limited has slots without number."""
_OWN_LIMIT = re.compile(r" \(at most (\d+)\)$")


def job_limit(job: str, tasks: int) -> str:
    """What a task takes a slot of when its job may run ``tasks`` at once: the limit is in the name."""
    return f"{JOB} {job} (at most {tasks})"


def server_limits(server: str, limits: ServerLimits, host: str, datastore: str) -> tuple[str, ...]:
    """What a task on a disk takes slots of; ``host`` and ``datastore``: where its VM and it lie, "" if unknown."""
    wanted = (
        (limits.tasks, f"{SERVER} {server}"),
        (limits.tasks_per_host if host else None, f"{HYPERVISOR} {server}/{host}"),
        (limits.tasks_per_datastore if datastore else None, f"{DATASTORE} {server}/{datastore}"),
    )
    return tuple(name for limit, name in wanted if limit is not None)


class Capacities:
    """Read once, within the transaction that decides. ``slots``: of everything that is enabled, by name.

    ``key`` changes when any of it does.
    """

    def __init__(self, connection: Connection) -> None:
        self.slots: dict[str, int] = {}
        for agent in connection.execute(select(agents).where(agents.c.enabled).order_by(agents.c.name)):
            if AgentRole.PROXY in agent.roles:
                self.slots[f"{PROXY} {agent.name}"] = agent.proxy_slots
            if AgentRole.REPOSITORY in agent.roles:
                self.slots[f"{HOST} {agent.name}"] = agent.repository_slots
        self._proxies: Rank = tuple(name for name in self.slots if name.startswith(f"{PROXY} "))
        for repository in connection.execute(select(repositories.c.name, repositories.c.slots)):
            self.slots[f"{REPOSITORY} {repository.name}"] = repository.slots
        self._limits = _limits(connection)
        told = repr((sorted(self.slots.items()), sorted(self._limits.items())))
        self.key = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        self._needs: dict[str, tuple[Need, ...]] = {}

    def needs(self, text: str) -> tuple[Need, ...]:
        """The needs that a request's JSON text names; equal texts give the same objects."""
        found = self._needs.get(text)
        if found is None:
            found = self._needs[text] = tuple(tuple(map(self._rank, need)) for need in _read(text))
            for need in found:
                for rank in need:
                    self._add_limited(rank)
        return found

    def _rank(self, rank: Rank) -> Rank:
        return self._proxies if rank == (f"{PROXY} {ANY_PROXY}",) else rank

    def _add_limited(self, rank: Rank) -> None:
        for name in rank:
            if name not in self.slots and name.startswith(tuple(f"{kind} " for kind in _LIMITED)):
                self.slots[name] = self._limit(name)

    def _limit(self, name: str) -> int:
        own = _OWN_LIMIT.search(name)
        if own is not None:
            return int(own[1])
        kind = next(kind for kind in _LIMITED if name.startswith(f"{kind} "))
        server = name.removeprefix(f"{kind} ").partition("/")[0]
        limits = self._limits.get(server, ServerLimits())
        per = {SERVER: limits.tasks, HYPERVISOR: limits.tasks_per_host, DATASTORE: limits.tasks_per_datastore}
        return per.get(kind) or _NO_LIMIT


def _limits(connection: Connection) -> dict[str, ServerLimits]:
    rows = connection.execute(select(servers.c.name, servers.c.limits).where(servers.c.limits.is_not(None)))
    return {row.name: msgspec.convert(row.limits, ServerLimits) for row in rows if row.limits is not None}


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Need, ...]:
    return msgspec.json.decode(text, type=tuple[Need, ...])
