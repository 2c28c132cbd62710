"""The metrics of the service: what the catalogue says at the moment of a scrape, and counters since its start."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.sql import ColumnElement

import holdfast_agent
from holdfast_agent.channel.metrics_endpoint import MetricsEndpoint
from holdfast_agent.model.metrics import Metric, Sample, counter, gauge
from holdfast_manager.catalog.again import run_again
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.tables import jobs, notices, obligations, points, sessions, slot_requests
from holdfast_manager.catalog.values import SessionResult, SessionState
from holdfast_manager.scheduler.occupation import slot_uses

log = logging.getLogger(__name__)


class EndedSessions:
    """Counts sessions that ended since it was made. One thread."""

    def __init__(self, connection: Connection) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._living = set(connection.scalars(select(sessions.c.id).where(_lives())))
        self._last: int = connection.scalar(select(func.max(sessions.c.id))) or 0

    def look(self, connection: Connection) -> None:
        """Count those that have ended since the last look. Those before ``_last`` that lived then are few."""
        newer = select(*_COUNTED).where(sessions.c.id > self._last)
        older = select(*_COUNTED).where(sessions.c.id.in_(sorted(self._living)))
        for row in (*connection.execute(newer), *connection.execute(older)):
            self._last = max(self._last, row.id)
            if row.state == SessionState.ENDED.value:
                self.counts[row.kind, row.result] += 1
                self._living.discard(row.id)
            else:
                self._living.add(row.id)


class ServiceMetrics:
    """``collect`` is called by the endpoint's thread alone."""

    def __init__(self, catalog: Catalog) -> None:
        self._database = catalog.database
        with self._database.reading() as connection:
            self._ended = EndedSessions(connection)

    @run_again
    def collect(self) -> Iterable[Metric]:
        """All metrics as they are now; one short read transaction. Raises what ``Catalog`` does."""
        with self._database.reading() as connection:
            return list(self._collect(connection))

    def _collect(self, connection: Connection) -> Iterator[Metric]:
        self._ended.look(connection)
        version = [Sample(1, {"version": holdfast_agent.__version__})]
        yield gauge("holdfast_info", "The service that leads: always 1.", version)
        yield counter(
            "holdfast_sessions_ended_total",
            "Sessions that have ended since the service began to lead.",
            [Sample(n, {"kind": kind, "result": result}) for (kind, result), n in sorted(self._ended.counts.items())],
        )
        running = select(sessions.c.kind, func.count()).where(_lives()).group_by(sessions.c.kind)
        yield gauge("holdfast_sessions", "Sessions that run.", _counted(connection, running, "kind"))
        yield from _of_jobs(connection)
        yield from _of_slots(connection)
        yield from _of_points(connection)
        owed = select(obligations.c.server, func.count()).group_by(obligations.c.server)
        what = "Things that must be removed from servers: of sessions that run, or left by dead ones."
        yield gauge("holdfast_obligations", what, _counted(connection, owed, "server"))
        waiting = connection.scalar(select(func.count()).select_from(notices).where(notices.c.due.is_not(None))) or 0
        yield gauge("holdfast_notices_waiting", "Notices that are not delivered yet.", waiting)


class TellsMetrics:
    """The endpoint of a service: open while that leads. An address that cannot be had is logged, never raised."""

    def __init__(self, place: str, catalog: Catalog) -> None:
        self._place = place
        self._catalog = catalog
        self._endpoint: MetricsEndpoint | None = None

    def open(self) -> None:
        """The service leads from now on."""
        if not self._place:
            return
        try:
            self._endpoint = MetricsEndpoint(self._place, ServiceMetrics(self._catalog).collect)
        except OSError as error:
            log.error("no metrics at %s: %s", self._place, error.strerror or error)
        else:
            log.info("metrics are told at port %d", self._endpoint.port)

    def close(self) -> None:
        """It leads no more. Idempotent."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None


_COUNTED = (sessions.c.id, sessions.c.kind, sessions.c.state, sessions.c.result)


def _lives() -> ColumnElement[bool]:
    return sessions.c.state.in_([state.value for state in SessionState if state is not SessionState.ENDED])


def _counted(connection: Connection, query: Select[Any], label: str) -> list[Sample]:
    return [Sample(count, {label: name}) for name, count in connection.execute(query)]


def _of_jobs(connection: Connection) -> Iterator[Metric]:
    newest = select(points.c.created).where(points.c.job == jobs.c.name).order_by(points.c.created.desc()).limit(1)
    rows = connection.execute(select(jobs.c.name, newest.scalar_subquery().label("newest")).order_by(jobs.c.name)).all()
    yield gauge(
        "holdfast_job_newest_point_timestamp_seconds",
        "When the newest restore point of the job was made.",
        [Sample(row.newest, {"job": row.name}) for row in rows if row.newest is not None],
    )
    last = sessions.alias("last")
    ended = (
        select(last.c.id)
        .where(last.c.job == jobs.c.name, last.c.ended.is_not(None))
        .order_by(last.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    columns = (jobs.c.name, sessions.c.ended, sessions.c.result)
    query = select(*columns).select_from(jobs).join(sessions, sessions.c.id == ended)
    last_ones = connection.execute(query.order_by(jobs.c.name)).all()
    yield gauge(
        "holdfast_job_last_end_timestamp_seconds",
        "When the newest session of the job that has ended did so.",
        [Sample(row.ended, {"job": row.name}) for row in last_ones],
    )
    yield gauge(
        "holdfast_job_last_result",
        "How it ended: 1 for the result that it had, 0 for the others.",
        [
            Sample(float(row.result == result.value), {"job": row.name, "result": result.value})
            for row in last_ones
            for result in SessionResult
            if result is not SessionResult.NONE
        ],
    )


def _of_slots(connection: Connection) -> Iterator[Metric]:
    waits = select(func.count()).select_from(slot_requests).where(slot_requests.c.granted.is_(None))
    yield gauge("holdfast_tasks_waiting", "Tasks that wait for slots.", connection.scalar(waits) or 0)
    uses = slot_uses(connection)
    names = [{"resource": use.resource} for use in uses]
    slots, used = (float(use.slots) for use in uses), (float(use.used) for use in uses)
    yield gauge("holdfast_slots", "Tasks that may work there at once.", map(Sample, slots, names))
    yield gauge("holdfast_slots_used", "Tasks that work there.", map(Sample, used, names))


def _of_points(connection: Connection) -> Iterator[Metric]:
    there = points.c.undo_until.is_(None)
    query = select(points.c.repository, func.count(), func.sum(points.c.stored_bytes)).where(there)
    rows = connection.execute(query.group_by(points.c.repository).order_by(points.c.repository)).all()
    names = [{"repository": name} for name, _, _ in rows]
    yield gauge("holdfast_points", "Restore points.", map(Sample, (float(count) for _, count, _ in rows), names))
    yield gauge(
        "holdfast_points_stored_bytes",
        "What the repository appended for its restore points.",
        map(Sample, (float(stored or 0) for _, _, stored in rows), names),
    )
