"""The report over everything, as values: `holdfast report` and its JSON document. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import msgspec

from holdfast_agent.model.stats import StageTimes, TransferCounters, bottleneck, load_line, summed
from holdfast_manager.catalog.overview import Stored, Worked
from holdfast_manager.catalog.values import SessionEntry, SessionResult, SessionState

from .protection import VmLine, VmState


class JobLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What the backup sessions of a job moved. ``waited_s``: of all tasks, for slots. ``load`` is empty without any."""

    job: str
    tasks: int
    total: TransferCounters
    waited_s: float
    load: str
    bottleneck: str


class EstateReport(msgspec.Struct, frozen=True, kw_only=True):
    """``since`` and ``until``: Unix seconds. ``days``: all that the window touches, as ISO dates, the oldest first.

    ``results`` and ``grown`` have a number for each day: sessions that were begun, by result; and bytes in each
    repository at its end, of points that are there still. ``silent``: why servers could not be asked for their VMs.
    """

    since: float
    until: float
    rpo_s: float
    days: list[str]
    vms: list[VmLine]
    states: dict[str, int]
    sessions: list[SessionEntry]
    results: dict[str, list[int]]
    grown: dict[str, list[int]]
    jobs: list[JobLoad]
    silent: dict[str, str]


def estate_report(
    *,
    since: float,
    until: float,
    rpo_s: float,
    vms: Sequence[VmLine],
    sessions: Sequence[SessionEntry],
    stored: Sequence[Stored],
    worked: Sequence[Worked],
    silent: Mapping[str, str],
) -> EstateReport:
    """Put together. ``stored``: all points, the oldest first; the rest: of the window."""
    days = _days(since, until)
    states = Counter(line.state.value for line in vms)
    return EstateReport(
        since=since,
        until=until,
        rpo_s=rpo_s,
        days=[day.isoformat() for day in days],
        vms=list(vms),
        states={state.value: states[state.value] for state in VmState},
        sessions=list(sessions),
        results=_results(days, sessions),
        grown=_grown(days, stored),
        jobs=_loads(worked),
        silent=dict(silent),
    )


def _days(since: float, until: float) -> list[date]:
    first, last = datetime.fromtimestamp(since).date(), datetime.fromtimestamp(until).date()
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _results(days: Sequence[date], sessions: Sequence[SessionEntry]) -> dict[str, list[int]]:
    counts: defaultdict[str, Counter[date]] = defaultdict(Counter)
    for entry in sessions:
        if entry.state is SessionState.ENDED:
            counts[entry.result.value][datetime.fromtimestamp(entry.created).date()] += 1
    return {
        result.value: [counts[result.value][day] for day in days] for result in SessionResult if counts[result.value]
    }


def _grown(days: Sequence[date], stored: Sequence[Stored]) -> dict[str, list[int]]:
    grown: defaultdict[str, Counter[date]] = defaultdict(Counter)
    for each in stored:
        # what is older than the window counts from its first day on
        day = max(datetime.fromtimestamp(each.created).date(), days[0])
        grown[each.repository][day] += each.stored_bytes
    return {name: _running(days, by_day) for name, by_day in sorted(grown.items())}


def _running(days: Sequence[date], by_day: Counter[date]) -> list[int]:
    total, found = 0, []
    for day in days:
        total += by_day[day]
        found.append(total)
    return found


def _loads(worked: Sequence[Worked]) -> list[JobLoad]:
    by_job: defaultdict[str, list[Worked]] = defaultdict(list)
    for each in worked:
        by_job[each.job].append(each)
    return [_load(job, tasks) for job, tasks in sorted(by_job.items())]


def _load(job: str, tasks: Sequence[Worked]) -> JobLoad:
    total = summed([each.counters for each in tasks])
    busy = total.stages != StageTimes()
    return JobLoad(
        job=job,
        tasks=len(tasks),
        total=total,
        waited_s=sum(each.queue_wait_s for each in tasks),
        load=load_line(total.stages, total.elapsed_s) if busy else "",
        bottleneck=bottleneck(total.stages) if busy else "",
    )
