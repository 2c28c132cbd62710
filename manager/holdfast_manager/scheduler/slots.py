"""The ledger of slots in the catalogue: how session processes share proxies and repositories with no service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.engine import Row

from holdfast_agent.errors import NotFound, UsageError

from ..catalog import Catalog
from ..catalog.tables import agents, repositories, slot_requests
from ..catalog.values import AgentRole
from .placement import Request, Wait, place

_PROXY = "proxy"
_REPOSITORY = "repository"
_HOST = "repository host"


class SlotGrant(msgspec.Struct, frozen=True):
    """The task may run on this proxy; its slots are held until they are released or lapse."""

    task: int
    proxy: str
    repository: str


class SlotWait(msgspec.Struct, frozen=True):
    """The task waits since ``since`` (Unix seconds); ``reason`` is a sentence for people."""

    task: int
    reason: str
    ahead: int
    since: float


class SlotState(msgspec.Struct, frozen=True):
    """All that a session holds and waits for.

    A task that the session has requested and that is in neither has lapsed, because the session did not look for
    longer than the TTL: its slots may be another's by now, so stop its movers and request anew.
    """

    grants: tuple[SlotGrant, ...]
    waits: tuple[SlotWait, ...]


class SlotLedger:
    """Slots of proxies, repositories and their hosts, shared by all processes that have the catalogue open.

    Whoever polls decides for everybody, inside one write transaction, so all see one order and no limit is ever
    exceeded. What is not renewed within ``ttl_s`` lapses: a dead session's slots come back. Clocks are wall clocks,
    since processes of several hosts may share a catalogue. Thread-safe; raises what ``Catalog`` does.
    """

    def __init__(self, catalog: Catalog, clock: Callable[[], float] = time.time, ttl_s: float = 60.0) -> None:
        self._database = catalog.database
        self._clock = clock
        self._ttl_s = ttl_s

    def request(
        self, session: int, task: int, proxies: Sequence[str], repository: str, also: Sequence[str] = ()
    ) -> None:
        """Put a task in the queue: it needs one of ``proxies`` (the most wanted first) and ``repository``.

        ``also``: further repositories, which it reads; one slot of each, and of each host.
        An earlier request of the same task is dropped with what it held. Takes effect at the next ``poll``. Raises
        ``NotFound`` for the repository, ``UsageError`` without any proxy.
        """
        if not proxies:
            raise UsageError(reason="no enabled agent has the role proxy; see `holdfast agent list`")
        now = self._clock()
        with self._database.writing() as connection:
            needs = (
                tuple(f"{_PROXY} {name}" for name in dict.fromkeys(proxies)),
                *_places(connection, (repository, *also)),
            )
            connection.execute(_of(session, task))
            connection.execute(
                slot_requests.insert().values(
                    session=session,
                    task=task,
                    needs=needs,
                    awaited=[],
                    granted=None,
                    requested=now,
                    expires=now + self._ttl_s,
                )
            )

    def poll(self, session: int) -> SlotState:
        """Renew what the session has, let lapse what others left, give out free slots, and tell how things stand.

        Called by each session every second or so while tasks of it wait. Idempotent.
        """
        now = self._clock()
        with self._database.writing() as connection:
            self._renew(connection, session, now, self._ttl_s)
            connection.execute(slot_requests.delete().where(slot_requests.c.expires <= now))
            rows = connection.execute(select(slot_requests).order_by(slot_requests.c.id)).all()
            waits = _decide(connection, rows)
            query = select(slot_requests).where(slot_requests.c.session == session).order_by(slot_requests.c.id)
            own = connection.execute(query).all()
        return SlotState(
            grants=tuple(_grant(row) for row in own if row.granted is not None),
            waits=tuple(_wait(row, waits[row.id]) for row in own if row.granted is None),
        )

    def renew(self, session: int, ttl_s: float | None = None) -> tuple[int, ...]:
        """Keep what the session holds and waits for, for ``ttl_s`` more. Returns its tasks that are still there."""
        with self._database.writing() as connection:
            self._renew(connection, session, self._clock(), self._ttl_s if ttl_s is None else ttl_s)
            return tuple(
                connection.scalars(
                    select(slot_requests.c.task).where(slot_requests.c.session == session).order_by(slot_requests.c.id)
                )
            )

    def release(self, session: int, task: int) -> None:
        """The task is over, or no longer wants to run. Idempotent."""
        with self._database.writing() as connection:
            connection.execute(_of(session, task))

    def release_all(self, session: int) -> None:
        """The session is over. Idempotent; ``sessions.end`` does it too."""
        with self._database.writing() as connection:
            connection.execute(slot_requests.delete().where(slot_requests.c.session == session))

    @staticmethod
    def _renew(connection: Connection, session: int, now: float, ttl_s: float) -> None:
        # only when half is gone: a commit that changes nothing costs no sync of the disk
        due = (slot_requests.c.session == session) & (slot_requests.c.expires < now + ttl_s / 2)
        connection.execute(slot_requests.update().where(due).values(expires=now + ttl_s))


def _decide(connection: Connection, rows: Sequence[Row[Any]]) -> dict[int, Wait]:
    """Run one round over all rows and store what changed. Returns the waits by the number of their row."""
    held = [name for row in rows if row.granted is not None for name in row.granted]
    waiting = {row.id: row for row in rows if row.granted is None}
    if not waiting:
        return {}
    placement = place(_capacities(connection), held, [_request(row) for row in waiting.values()])
    for grant in placement.grants:
        _set(connection, grant.id, granted=list(grant.resources))
    for wait in placement.waits:
        if list(wait.awaited) != waiting[wait.id].awaited:
            _set(connection, wait.id, awaited=list(wait.awaited))
    return {wait.id: wait for wait in placement.waits}


def _capacities(connection: Connection) -> dict[str, int]:
    """Slots of everything that is enabled; what is missing here has none."""
    slots: dict[str, int] = {}
    for agent in connection.execute(select(agents).where(agents.c.enabled)):
        if AgentRole.PROXY in agent.roles:
            slots[f"{_PROXY} {agent.name}"] = agent.proxy_slots
        if AgentRole.REPOSITORY in agent.roles:
            slots[f"{_HOST} {agent.name}"] = agent.repository_slots
    for repository in connection.execute(select(repositories.c.name, repositories.c.slots)):
        slots[f"{_REPOSITORY} {repository.name}"] = repository.slots
    return slots


def _request(row: Row[Any]) -> Request:
    return Request(row.id, tuple(tuple(need) for need in row.needs), tuple(row.awaited))


def _places(connection: Connection, names: Sequence[str]) -> list[tuple[str]]:
    """A need for each repository, then one for each host of them; the first is that of the first name."""
    hosts: dict[str, None] = {}
    for name in names:
        host = connection.scalar(select(repositories.c.agent).where(repositories.c.name == name))
        if host is None:
            raise NotFound(kind="repository", name=name)
        hosts[host] = None
    return [(f"{_REPOSITORY} {name}",) for name in dict.fromkeys(names)] + [(f"{_HOST} {host}",) for host in hosts]


def _grant(row: Row[Any]) -> SlotGrant:
    proxy, repository, *_ = (name.rpartition(" ")[2] for name in row.granted)
    return SlotGrant(row.task, proxy, repository)


def _wait(row: Row[Any], wait: Wait) -> SlotWait:
    return SlotWait(row.task, wait.reason, wait.ahead, row.requested)


def _set(connection: Connection, number: int, **values: Any) -> None:
    connection.execute(slot_requests.update().where(slot_requests.c.id == number).values(**values))


def _of(session: int, task: int) -> Any:
    return slot_requests.delete().where(slot_requests.c.session == session, slot_requests.c.task == task)
