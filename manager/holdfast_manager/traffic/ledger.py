"""The ledger of traffic in the catalogue: how session processes share limits with no service."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.engine import Row

from ..catalog import Catalog
from ..catalog.again import runs_again
from ..catalog.database import Database
from ..catalog.rows import columns_of, from_row
from ..catalog.tables import jobs, repositories, traffic_rules, transfers
from ..catalog.values import JobSpec, RepositoryEntry, TrafficRule
from .rules import Limits, Transfer, limits_of
from .shares import Share, raised, split


@runs_again
class TrafficLedger:
    """What each transferring task may send, of all processes that have the catalogue open.

    The rate that stands here is never less than what the task's mover was told: it is lowered after the mover has
    obeyed and raised before it is told. So at no moment may all tasks of a limit together send more than the limit,
    although each session speaks with its own movers only, and looks here only every second or so.

    What is not renewed within ``ttl_s`` lapses: a dead session's share comes back when its movers have ended. Clocks
    are wall clocks, since processes of several hosts may share a catalogue. Thread-safe; raises what ``Catalog`` does.
    """

    def __init__(self, catalog: Catalog, clock: Callable[[], float] = time.time, ttl_s: float = 60.0) -> None:
        self._database: Database = catalog.database
        self._clock = clock
        self._ttl_s = ttl_s

    def begin(self, session: int, task: int, transfer: Transfer) -> None:
        """A task is about to transfer, or takes another way now. Its rate is 0 until it is raised, or what it was."""
        values = {**msgspec.structs.asdict(transfer), "session": session, "expires": self._clock() + self._ttl_s}
        with self._database.writing() as connection:
            known = connection.execute(transfers.update().where(_of(session, task)).values(**values)).rowcount
            if not known:
                row = {**values, "task": task, "rate_bytes_per_s": 0}
                connection.execute(transfers.insert().values(row))

    def end(self, session: int, task: int) -> None:
        """A task no longer transfers. Idempotent."""
        with self._database.writing() as connection:
            connection.execute(transfers.delete().where(_of(session, task)))

    def renew(self, session: int, ttl_s: float | None = None) -> None:
        """Keep the shares of a session for ``ttl_s`` more."""
        now, ttl_s = self._clock(), self._ttl_s if ttl_s is None else ttl_s
        # only when half is gone: a commit that changes nothing costs no sync of the disk
        due = (transfers.c.session == session) & (transfers.c.expires < now + ttl_s / 2)
        with self._database.writing() as connection:
            connection.execute(transfers.update().where(due).values(expires=now + ttl_s))

    def shares(self, session: int) -> dict[int, tuple[Share, Share]]:
        """By task of the session: what it has, and what it is to have now. Called every second or so; only reads."""
        with self._database.reading() as connection:
            round_ = _Round(connection, self._clock())
        return {
            row.task: (Share(row.rate_bytes_per_s), round_.shares[row.id])
            for row in round_.rows.values()
            if row.session == session
        }

    def lowered(self, session: int, rates: Mapping[int, int]) -> None:
        """The movers of these tasks have been told that they may send so much only."""
        with self._database.writing() as connection:
            for task, rate in rates.items():
                connection.execute(transfers.update().where(_of(session, task)).values(rate_bytes_per_s=rate))

    def raise_rates(self, session: int) -> dict[int, Share]:
        """Raise the rates of the session's tasks as far as what others have leaves room, and return those raised.

        Their movers are to be told after this. What is not raised to its share now, because others have not
        lowered theirs yet, is raised by a later call. Lapsed shares of dead sessions are cleared away.
        """
        with self._database.writing() as connection:
            now = self._clock()
            connection.execute(transfers.delete().where(transfers.c.expires <= now))
            round_ = _Round(connection, now)
            changed: dict[int, Share] = {}
            for number, row in round_.rows.items():
                share = round_.shares[number]
                if row.session != session or not _higher(share.bytes_per_s, round_.rates[number]):
                    continue
                rate = round_.room_for(number)
                if rate != round_.rates[number]:
                    round_.rates[number] = rate
                    changed[row.task] = Share(rate, share.by)
                    connection.execute(transfers.update().where(transfers.c.id == number).values(rate_bytes_per_s=rate))
        return changed


class _Round:
    """All that transfers at one moment, the limits that hold, and the shares that follow. ``rates``: None is all."""

    def __init__(self, connection: Connection, now: float) -> None:
        query = select(transfers).where(transfers.c.expires > now).order_by(transfers.c.id)
        self.rows: dict[int, Row[Any]] = {row.id: row for row in connection.execute(query)}
        self.rates: dict[int, int | None] = {number: row.rate_bytes_per_s for number, row in self.rows.items()}
        self._limits = _limits(connection, self.rows, now)
        self.shares = split(self._limits.bytes_per_s, self._limits.covered)

    def room_for(self, number: int) -> int | None:
        """To what a task's rate may be raised now."""
        covering = self._limits.covered[number]
        taken = {name: self._taken(name, number) for name in covering}
        current = self.rates[number] or 0
        return raised(self.shares[number], current, covering, self._limits.bytes_per_s, taken)

    def _taken(self, limit: str, but: int) -> int | None:
        total = 0
        for number, names in self._limits.covered.items():
            if number != but and limit in names:
                rate = self.rates[number]
                if rate is None:
                    return None
                total += rate
        return total


def _limits(connection: Connection, rows: Mapping[int, Row[Any]], now: float) -> Limits:
    if not rows:
        return Limits({}, {})
    rules = [from_row(row, TrafficRule) for row in connection.execute(select(*columns_of(traffic_rules, TrafficRule)))]
    stores = connection.execute(select(*columns_of(repositories, RepositoryEntry)))
    named = {row.job for row in rows.values()}
    specs = connection.scalars(select(jobs.c.spec).where(jobs.c.name.in_(named)))
    bandwidths = {spec.name: spec.bandwidth_bytes_per_s for spec in (msgspec.convert(each, JobSpec) for each in specs)}
    return limits_of(
        {number: _transfer(row) for number, row in rows.items()},
        rules,
        [from_row(row, RepositoryEntry) for row in stores],
        {name: limit for name, limit in bandwidths.items() if limit is not None},
        now,
    )


def _transfer(row: Row[Any]) -> Transfer:
    return Transfer(**{name: row._mapping[name] for name in Transfer.__struct_fields__})


def _higher(share: int | None, rate: int | None) -> bool:
    return rate is not None and (share is None or share > rate)


def _of(session: int, task: int) -> Any:
    return (transfers.c.session == session) & (transfers.c.task == task)
