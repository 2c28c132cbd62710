"""Old history is forgotten, and nothing that somebody still needs; whatever interrupts it, it can go on."""

from __future__ import annotations

import os
import random
from itertools import islice

import msgspec
import pytest

from holdfast_agent.model.ids import new_sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog import history as module
from holdfast_manager.catalog.history import Forgotten
from holdfast_manager.catalog.tables import events, tasks
from holdfast_manager.catalog.values import EventEntry, PointEntryRow, RunState, SessionKind, SessionResult, TaskEntry
from holdfast_manager.service import housekeeping
from holdfast_manager.service.housekeeping import Housekeeping
from holdfast_manager.settings import HistorySettings, ManagerSettings

DAY = 86400.0
LIMITS = HistorySettings(keep_s=10 * DAY, sessions=1000, events_s=5 * DAY)

pytestmark = pytest.mark.both_databases


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every case takes several."""
    monkeypatch.setattr(module, "_SESSIONS_AT_ONCE", 3)
    monkeypatch.setattr(module, "_EVENTS_AT_ONCE", 4)


def ended(catalog: Catalog, job: str = "", count: int = 1, kind: SessionKind = SessionKind.VERIFY, **spec) -> list[int]:
    """Sessions with two tasks and seven events each."""
    numbers = []
    for _ in range(count):
        number = (catalog.sessions.begin_job(job) if job else catalog.sessions.begin(kind, spec)).id
        task = TaskEntry(session=number, vm_id="v", vm_name="v", disk_id="d", disk_name="d", state="done")
        catalog.tasks.add([task] * 2)
        catalog.events.append([EventEntry(session=number, time=1.0, kind="Note")] * 7)
        catalog.sessions.end(number, SessionResult.SUCCESS)
        numbers.append(number)
    return numbers


def listed(catalog: Catalog) -> list[int]:
    return [entry.id for entry in catalog.sessions.list(limit=1000)][::-1]


def count(catalog: Catalog, table) -> int:
    with catalog.database.reading() as connection:
        return len(connection.execute(table.select()).all())


def forget(catalog: Catalog, limits: HistorySettings = LIMITS) -> Forgotten:
    told = catalog.history.due(limits)
    gone = sum(catalog.history.prune(limits), start=Forgotten())
    assert gone == told, "a dry run tells something else"
    assert catalog.history.due(limits) == Forgotten()
    return gone


def test_sessions_go_by_age_with_all_that_belongs_to_them_and_events_go_sooner(stocked: Catalog, clock) -> None:
    old = ended(stocked, count=8)
    clock.pass_time(6 * DAY)
    middle = ended(stocked, count=2)
    clock.pass_time(5 * DAY)
    new = ended(stocked, count=2)
    assert forget(stocked) == Forgotten(8, 8 * 7)
    assert listed(stocked) == middle + new
    assert (count(stocked, tasks), count(stocked, events)) == (4 * 2, 4 * 7)
    clock.pass_time(1)
    assert forget(stocked) == Forgotten(0, 2 * 7)
    assert listed(stocked) == middle + new
    assert [len(stocked.events.after(number)) for number in middle + new] == [0, 0, 7, 7]
    assert stocked.sessions.begin(SessionKind.VERIFY, {}).id > max(old + new), "a number is never used again"


def test_sessions_go_by_number_the_oldest_first(stocked: Catalog) -> None:
    numbers = ended(stocked, count=9)
    assert forget(stocked, msgspec.structs.replace(LIMITS, sessions=4)) == Forgotten(5, 35)
    assert listed(stocked) == numbers[5:]


def test_what_somebody_still_needs_stays_however_old(stocked: Catalog, clock) -> None:
    jobs = [msgspec.structs.replace(stocked.jobs.get("web"), name=name) for name in ("gone", "tried", "waits")]
    for job in jobs:
        stocked.jobs.add(job)
    doomed = [*ended(stocked, "web", 2), *ended(stocked, "gone"), *ended(stocked, "tried", 2)]
    newest, failed = ended(stocked, "web"), ended(stocked, "tried")
    tried = ended(stocked, "tried")
    kept = ended(stocked, kind=SessionKind.EXPORT, keep=True)
    doomed += ended(stocked, kind=SessionKind.EXPORT, keep=False)
    owing = ended(stocked)
    owed = stocked.obligations.write(owing[0], "lab", "images", "snapshot", {})
    living = [stocked.sessions.begin_job("web").id]
    stocked.events.append([EventEntry(session=living[0], time=1.0, kind="Note")])
    stocked.jobs.remove("gone")
    stocked.runs.save({"tried": (RunState(), RunState(key="k", failed=failed[0], session=tried[0]))})
    clock.pass_time(1000 * DAY)
    assert forget(stocked).sessions == len(doomed)
    assert listed(stocked) == sorted(newest + failed + tried + kept + owing + living)
    for number in newest + failed + tried + kept + owing + living:
        assert stocked.events.after(number), "it lost its events"
    stocked.obligations.strike(owed)
    assert forget(stocked).sessions == 1


def test_points_outlive_their_session(stocked: Catalog, clock) -> None:
    session = ended(stocked)[0]
    point = PointEntryRow(
        sid=new_sid(), repository="main", server="lab", job="web", vm_id="v", vm_name="v", created=1.0, size_bytes=1,
        session=session,
    )  # fmt: skip
    stocked.points.add(point)
    clock.pass_time(11 * DAY)
    forget(stocked)
    assert stocked.points.get(point.sid) == msgspec.structs.replace(point, session=None)


def test_it_may_be_left_anywhere_and_done_by_several_at_once(stocked: Catalog, clock) -> None:
    chance = random.Random(7)
    ended(stocked, count=10)
    clock.pass_time(6 * DAY)
    ended(stocked, count=3)
    clock.pass_time(5 * DAY)
    last = ended(stocked, count=2)
    runs = [stocked.history.prune(LIMITS) for _ in range(3)]
    for _ in range(12):
        for _step in islice(chance.choice(runs), 1):
            pass
    forget(stocked)
    assert len(listed(stocked)) == 5
    assert count(stocked, events) == 5 * 7
    assert listed(stocked)[-2:] == last


def test_the_service_does_it_each_hour_and_removes_logs(
    stocked: Catalog, manager_settings: ManagerSettings, clock
) -> None:
    settings = msgspec.structs.replace(manager_settings, history=LIMITS)
    keeper = Housekeeping(settings, stocked)
    keeper.look(clock.now)
    numbers = ended(stocked, count=5)
    clock.pass_time(11 * DAY)
    numbers += ended(stocked)
    settings.log_dir.mkdir()
    for number in (*numbers, 999):
        log = settings.log_dir / f"session-{number}.log"
        log.touch()
        age_s = 1 * DAY if number == 999 else 11 * DAY
        os.utime(log, (clock.now - age_s, clock.now - age_s))
    (settings.log_dir / "cli-1.log").touch()
    keeper.look(clock.now)
    assert listed(stocked) == numbers[-1:]
    left = {path.name for path in settings.log_dir.iterdir()}
    assert left == {f"session-{numbers[-1]}.log", "session-999.log", "cli-1.log"}


def test_the_service_does_it_each_hour_a_little_at_each_look(
    stocked: Catalog, manager_settings: ManagerSettings, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_AT_MOST_S", 0.0)
    few = msgspec.structs.replace(LIMITS, sessions=2)
    keeper = Housekeeping(msgspec.structs.replace(manager_settings, history=few), stocked)
    keeper.look(clock.now)
    numbers = ended(stocked, count=8)
    keeper.look(clock.now + 3599)
    assert listed(stocked) == numbers
    looks = 0
    while listed(stocked) != numbers[-2:]:
        before = count(stocked, events)
        keeper.look(clock.now + 3600)
        assert before - count(stocked, events) <= 4, "a look does more than a step"
        looks += 1
        assert looks < 99
    assert looks > 10
