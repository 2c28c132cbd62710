"""The ledger of slots in the catalogue: how session processes share proxies and repositories with no service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Text, bindparam, cast, select
from sqlalchemy.engine import Row

from holdfast_agent.errors import NotFound, UsageError

from ..catalog import Catalog
from ..catalog.again import runs_again
from ..catalog.tables import repositories, slot_requests, slot_rounds
from .capacities import HOST, PROXY, REPOSITORY, Capacities
from .placement import Placement, Rank, Request, place

_ROUND_EVERY_S = 1.0
_TOUCHES = 6  # of a lease: so often it is written down that somebody lives
_SHORT = 500
_PAUSE_S = 0.0003
"""After a round for more than ``_SHORT`` that wait: for each of them, so that a long queue does not fill a core."""


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


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a task needs. ``proxies``: ranks of names, the most wanted first; (("*",),) is any that is enabled.

    ``repository``: where it works; ``also``: further repositories, which it reads: one slot of each, and of each host.
    ``limits``: of what else it takes a slot, such as "job nightly" or "server lab". ``job`` and ``weight`` as in
    :class:`.placement.Request`.
    """

    proxies: tuple[Rank, ...]
    repository: str
    also: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    job: str = ""
    weight: int = 1


@runs_again
class SlotLedger:
    """Slots of proxies, repositories and their hosts, shared by all processes that have the catalogue open.

    Whoever polls decides for everybody, inside one write transaction, so all see one order and no limit is ever
    exceeded. A round comes when something has changed, and each second; with a long queue more seldom. What is not
    renewed within ``ttl_s`` lapses: a dead session's slots come back. Clocks are wall clocks, since processes of
    several hosts may share a catalogue; one that leaps ends no lease, and makes none last longer than two. Thread-safe;
    raises what ``Catalog`` does.
    """

    def __init__(self, catalog: Catalog, clock: Callable[[], float] = time.time, ttl_s: float = 60.0) -> None:
        self._database = catalog.database
        self._clock = clock
        self._ttl_s = ttl_s

    def request(self, session: int, task: int, wish: Wish) -> None:
        """Put a task in the queue. An earlier request of the same task is dropped with what it held.

        Takes effect at the next ``poll``. Raises ``NotFound`` for a repository, ``UsageError`` without any proxy.
        """
        if not any(wish.proxies):
            raise UsageError(reason="no enabled agent has the role proxy; see `holdfast agent list`")
        now = self._clock()
        with self._database.writing() as connection:
            proxies = [[f"{PROXY} {name}" for name in dict.fromkeys(rank)] for rank in wish.proxies]
            needs = [proxies, *_places(connection, (wish.repository, *wish.also)), *([[name]] for name in wish.limits)]
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
                    job=wish.job or f"session {session}",
                    weight=wish.weight,
                )
            )
            _want_round(connection)

    def poll(self, session: int) -> SlotState:
        """Renew what the session has, let lapse what others left, give out free slots, and tell how things stand.

        Called by each session every second or so while tasks of it wait. Idempotent.
        """
        now = self._clock()
        with self._database.writing() as connection:
            self._renew(connection, session, now)
            self._bear_leaps(connection, now)
            if connection.execute(slot_requests.delete().where(slot_requests.c.expires <= now)).rowcount:
                _want_round(connection)
            capacities = Capacities(connection)
            if _is_due(connection, capacities.key, now):
                _round_done(connection, capacities.key, now, _decide(connection, capacities))
            query = select(slot_requests).where(slot_requests.c.session == session).order_by(slot_requests.c.id)
            own = connection.execute(query).all()
        return SlotState(
            grants=tuple(_grant(row) for row in own if row.granted is not None),
            waits=tuple(_wait(row) for row in own if row.granted is None),
        )

    def renew(self, session: int) -> tuple[int, ...]:
        """Keep what the session holds and waits for. Returns its tasks that are still there."""
        now = self._clock()
        with self._database.writing() as connection:
            self._renew(connection, session, now)
            self._bear_leaps(connection, now)
            return tuple(
                connection.scalars(
                    select(slot_requests.c.task).where(slot_requests.c.session == session).order_by(slot_requests.c.id)
                )
            )

    def release(self, session: int, task: int) -> None:
        """The task is over, or no longer wants to run. Idempotent."""
        with self._database.writing() as connection:
            if connection.execute(_of(session, task)).rowcount:
                _want_round(connection)

    def release_all(self, session: int) -> None:
        """The session is over. Idempotent; ``sessions.end`` does it too, and then the next second notices."""
        with self._database.writing() as connection:
            if connection.execute(slot_requests.delete().where(slot_requests.c.session == session)).rowcount:
                _want_round(connection)

    def _bear_leaps(self, connection: Connection, now: float) -> None:
        """Living sessions renew every few seconds. So if nobody has for half a lease, either none lives, and to wait a
        little longer for theirs harms nobody; or the clock has leapt, and all that seem to have lapsed may live."""
        touched = connection.scalar(select(slot_rounds.c.touched))
        if touched is not None and 0 <= now - touched < self._ttl_s / _TOUCHES:
            return
        if touched is not None and not abs(now - touched) <= self._ttl_s / 2:
            early = slot_requests.c.expires < now + self._ttl_s / 2
            connection.execute(slot_requests.update().where(early).values(expires=now + self._ttl_s / 2))
            late = slot_requests.c.expires > now + self._ttl_s
            connection.execute(slot_requests.update().where(late).values(expires=now + self._ttl_s))
        connection.execute(slot_rounds.update().values(touched=now))

    def _renew(self, connection: Connection, session: int, now: float) -> None:
        # only when half is gone: a commit that changes nothing costs no sync of the disk
        due = (slot_requests.c.session == session) & (slot_requests.c.expires < now + self._ttl_s / 2)
        connection.execute(slot_requests.update().where(due).values(expires=now + self._ttl_s))


def _is_due(connection: Connection, key: str, now: float) -> bool:
    """Whether something has changed since the last round, or it is long ago; and that was not just now."""
    last = connection.execute(select(slot_rounds)).first()
    if last is None or not last.done <= now:
        return True  # the first one, or a clock that was put back
    passed = now - last.done
    pause = last.waiting * _PAUSE_S if last.waiting > _SHORT else 0.0
    return bool(passed >= pause and (last.wanted or last.key != key or passed >= _ROUND_EVERY_S))


def _want_round(connection: Connection) -> None:
    connection.execute(slot_rounds.update().values(wanted=True))


def _round_done(connection: Connection, key: str, now: float, waiting: int) -> None:
    row = {"key": key, "done": now, "waiting": waiting, "wanted": False}
    if not connection.execute(slot_rounds.update().values(row)).rowcount:
        connection.execute(slot_rounds.insert().values(place=1, **row))


def _decide(connection: Connection, capacities: Capacities) -> int:
    """Run one round over all rows and store what changed. Returns how many still wait."""
    columns = [column for column in slot_requests.c if column.name != "needs"]
    query = select(*columns, cast(slot_requests.c.needs, Text).label("needs")).order_by(slot_requests.c.id)
    rows: list[Row[Any]] = list(connection.execute(query))
    waiting = {row.id: row for row in rows if row.granted is None}
    if not waiting:
        return 0
    held = [name for row in rows if row.granted is not None for name in row.granted]
    running = Counter(row.job for row in rows if row.granted is not None)
    requests = [_request(row, capacities) for row in waiting.values()]
    placement = place(capacities.slots, held, requests, running)
    _store(connection, placement, waiting)
    return len(placement.waits)


def _store(connection: Connection, placement: Placement, waiting: dict[int, Row[Any]]) -> None:
    for grant in placement.grants:
        change = {"granted": list(grant.resources), "reason": "", "ahead": 0}
        connection.execute(slot_requests.update().where(slot_requests.c.id == grant.id).values(change))
    changed = [
        {"number": wait.id, "why": wait.reason, "before": wait.ahead, "positions": list(wait.awaited)}
        for wait in placement.waits
        if (row := waiting[wait.id]).reason != wait.reason or row.awaited != list(wait.awaited)
    ]
    if changed:
        update = slot_requests.update().where(slot_requests.c.id == bindparam("number"))
        values: dict[str, Any] = {
            "reason": bindparam("why"),
            "ahead": bindparam("before"),
            "awaited": bindparam("positions"),
        }
        connection.execute(update.values(values), changed)


def _request(row: Row[Any], capacities: Capacities) -> Request:
    return Request(row.id, capacities.needs(row.needs), tuple(row.awaited), row.job, row.weight)


def _places(connection: Connection, names: Sequence[str]) -> list[list[list[str]]]:
    """A need for each repository, then one for each host of them; the first is that of the first name."""
    hosts: dict[str, None] = {}
    for name in names:
        host = connection.scalar(select(repositories.c.agent).where(repositories.c.name == name))
        if host is None:
            raise NotFound(kind="repository", name=name)
        hosts[host] = None
    return [[[f"{REPOSITORY} {name}"]] for name in dict.fromkeys(names)] + [[[f"{HOST} {host}"]] for host in hosts]


def _grant(row: Row[Any]) -> SlotGrant:
    proxy, repository, *_ = (name.rpartition(" ")[2] for name in row.granted)
    return SlotGrant(row.task, proxy, repository)


def _wait(row: Row[Any]) -> SlotWait:
    return SlotWait(row.task, row.reason or "waiting for its turn", row.ahead, row.requested)


def _of(session: int, task: int) -> Any:
    return slot_requests.delete().where(slot_requests.c.session == session, slot_requests.c.task == task)
