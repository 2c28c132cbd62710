"""What the service remembers of jobs: one look at all of them, and starts that are claimed once."""

from __future__ import annotations

import random
from contextlib import ExitStack

import msgspec
import pytest

from holdfast_agent.errors import ConfigInvalid, Locked, NotFound
from holdfast_agent.model.ids import Sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.processes import Moment, ProcessIdentity
from holdfast_manager.catalog.runs import JobRuns
from holdfast_manager.catalog.tables import sessions
from holdfast_manager.catalog.values import (
    CopySettings,
    JobSpec,
    LastSession,
    PointEntryRow,
    PointScope,
    RepositoryEntry,
    RunState,
    SessionKind,
    SessionResult,
)
from holdfast_manager.schedules.schedule import JobSchedule
from holdfast_manager.settings import ManagerSettings

pytestmark = pytest.mark.both_databases
STATE = RunState(key="daily", handled=5.5, followed=3, failed=7, retry_at=9.25, attempt=2)


def test_one_look_tells_all_of_each_job(stocked: Catalog, clock) -> None:
    stocked.jobs.add(chained("other", after="web"))
    first = stocked.sessions.begin_job("web")
    stocked.sessions.end(first.id, SessionResult.PARTIAL)
    second = stocked.sessions.begin_job("web")
    stocked.sessions.begin(SessionKind.VERIFY, {})
    assert stocked.runs.save({"other": (RunState(), STATE)}) == {"other"}
    other, web = stocked.runs.look()
    assert (other.name, other.state, other.last, other.ended) == ("other", STATE, None, None)
    assert web.state == RunState()
    assert web.last == LastSession(second.id, None, SessionResult.NONE)
    assert web.ended == LastSession(first.id, clock.now, SessionResult.PARTIAL)
    assert msgspec.json.decode(other.spec, type=JobSpec) == chained("other", after="web")


def test_a_state_is_replaced_only_by_who_knows_it(stocked: Catalog) -> None:
    stocked.jobs.add(chained("other", after="web"))
    assert stocked.runs.save({"web": (RunState(), STATE)}) == {"web"}
    late = {"web": (RunState(), RunState(key="x")), "gone": (RunState(), STATE), "other": (RunState(), STATE)}
    assert stocked.runs.save(late) == {"other"}
    assert stocked.runs.save({"other": (STATE, RunState())}) == {"other"}
    stocked.jobs.remove("other")
    assert stocked.runs.look()[0].state == STATE
    assert stocked.runs.save({"web": (STATE, RunState())}) == {"web"}
    assert stocked.runs.look()[0].state == RunState()


def test_a_start_is_claimed_once_and_remembered_with_its_session(stocked: Catalog) -> None:
    claim = JobRuns.claim("web", RunState(), STATE)
    begun = stocked.sessions.begin_job("web", {"again": 1}, claim)
    assert stocked.runs.look()[0].state == msgspec.structs.replace(STATE, session=begun.id)
    stocked.sessions.end(begun.id, SessionResult.SUCCESS)
    with pytest.raises(Locked, match="another service"):
        stocked.sessions.begin_job("web", {}, claim)
    assert len(stocked.sessions.list()) == 1, "what was not claimed was begun"


def test_what_arrives_is_numbered_whatever_clocks_and_pruning_do(stocked: Catalog) -> None:
    entry = RepositoryEntry(name="far", agent="a", path="/far", repository_id="22" * 16, encrypted=False)
    stocked.repositories.add(entry)
    copies = JobSpec(name="copies", repository="far", copy=CopySettings(origin="main", jobs=("we*",)))
    stocked.jobs.add(copies)

    def arrive(number: int, job: str = "web", vm: str = "vm") -> None:
        sid = Sid(f"{number:032x}")
        fields = {"server": "lab", "vm_id": vm, "vm_name": vm, "created": 9.0 - number, "size_bytes": 1}
        stocked.points.add(PointEntryRow(sid=sid, repository="main", job=job, **fields))

    def newest(after: int = 0, **scope: tuple[str, ...]) -> int:
        return stocked.points.newest_arrival("main", after, PointScope(**{"jobs": ("we*",), **scope}))

    assert newest() == 0
    for number in (1, 2, 3):
        arrive(number)
    arrive(2)
    assert newest() == 3, "what is remembered again is not new"
    stocked.points.remove(Sid(f"{3:032x}"))
    arrive(4, job="other")
    arrive(5, vm="db")
    assert (newest(), newest(after=5), newest(vms=("vm",)), newest(exclude=("d?",))) == (5, 0, 2, 2)
    assert [(facts.name, facts.arrivals) for facts in stocked.runs.look()] == [("copies", 5), ("web", 0)]
    rows = stocked.points.list(repository="main")
    stocked.points.replace_all("main", rows, stocked.points.last_arrival("main"))
    assert newest() == 5, "a rescan finds nothing new in what was known"
    with pytest.raises(InUse, match="job copies"):
        stocked.repositories.remove("main")


def test_one_session_copies_into_a_repository_whoever_asked(stocked: Catalog) -> None:
    for name in ("far", "farther"):
        entry = RepositoryEntry(name=name, agent="a", path=f"/{name}", repository_id=name * 8, encrypted=False)
        stocked.repositories.add(entry)
    for name in ("one", "two"):
        stocked.jobs.add(JobSpec(name=name, repository="far", copy=CopySettings(origin="main")))
    begun = stocked.sessions.begin_job("one", {})
    assert (begun.kind, stocked.sessions.copying_into("far")) == (SessionKind.COPY, begun.id)
    for begin in (
        lambda: stocked.sessions.begin_job("two"),
        lambda: stocked.sessions.begin_copy("far", {}),
        lambda: stocked.jobs.remove("one"),
    ):
        with pytest.raises(Locked, match=str(begun.id)):
            begin()
    stocked.jobs.update(JobSpec(name="one", repository="farther", copy=CopySettings(origin="main")))
    with pytest.raises(Locked, match="'one'"):
        stocked.sessions.begin_job("one")
    stocked.sessions.end(begun.id, SessionResult.SUCCESS)
    assert stocked.sessions.copying_into("far") is None
    stocked.sessions.begin_job("two")


def test_removing_a_job_forgets_its_state(stocked: Catalog) -> None:
    stocked.runs.save({"web": (RunState(), STATE)})
    spec = stocked.jobs.get("web")
    stocked.jobs.remove("web")
    stocked.jobs.add(spec)
    assert stocked.runs.look()[0].state == RunState()


def test_chains_hold_together(stocked: Catalog) -> None:
    with pytest.raises(NotFound):
        stocked.jobs.add(chained("b", after="nobody"))
    stocked.jobs.add(chained("b", after="web"))
    stocked.jobs.add(chained("c", after="b"))
    with pytest.raises(ConfigInvalid, match="web after c after b after web"):
        stocked.jobs.update(chained("web", after="c"))
    with pytest.raises(InUse, match="job c"):
        stocked.jobs.remove("b")
    for name in ("c", "b", "web"):
        stocked.jobs.remove(name)


class Steady:
    """Of one host: a clock that nobody sets, until the host starts anew."""

    def __init__(self) -> None:
        self.now = Moment("first boot", 1000.0)

    def __call__(self) -> Moment:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now = Moment(self.now.boot_id, self.now.seconds + seconds)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> Steady:
    made = Steady()
    monkeypatch.setattr("holdfast_manager.catalog.sessions.moment", made)
    return made


def test_only_a_long_silence_tells_that_a_session_of_another_host_is_dead(
    stocked: Catalog, manager_settings: ManagerSettings, clock, steady: Steady
) -> None:
    """Whatever the clocks on the wall do meanwhile, and however many hosts look."""
    chance = random.Random(5)
    session = stocked.sessions.begin_job("web").id
    elsewhere = msgspec.structs.replace(ProcessIdentity.current(), host="elsewhere")
    run_by(stocked, elsewhere, state="running")
    started_s = {"a": 5.0, "b": 90_000.0}
    passed_s = 0

    def look() -> list[int]:
        found = []
        for host, of_host in hosts.items():
            steady.now = Moment(host, started_s[host] + passed_s)
            found += [each.id for each in of_host.sessions.reap_dead()]
        clock.pass_time(chance.choice((10.0, 86_400.0, -86_400.0)))
        return found

    with ExitStack() as opened:
        hosts = {name: opened.enter_context(Catalog.open(manager_settings, clock)) for name in started_s}
        while passed_s < 1500:
            stocked.sessions.stay_alive(session, 300.0)
            passed_s += 10
            assert not look(), "a session that lives was given up"
        assert not stocked.sessions.stop_requested(session)
        silent_s = 10
        started_s["b, started anew"] = 1.0 - passed_s
        hosts["b, started anew"] = hosts.pop("b")
        while not (found := look()):
            passed_s += 10
            silent_s += 10
            assert silent_s <= 400, "a dead session lives for ever"
    assert found == [session]
    assert silent_s >= 300, "it was given up before its patience was over"
    assert stocked.sessions.stop_requested(session), "it must stop, should it still be there"
    stocked.sessions.stay_alive(session, 300.0)
    assert stocked.sessions.get(session).result is SessionResult.FAILED


def test_a_session_whose_giver_died_may_still_be_adopted_for_a_while(stocked: Catalog, clock, steady: Steady) -> None:
    session = stocked.sessions.begin_job("web")
    dead = msgspec.structs.replace(ProcessIdentity.current(), start_ticks=1)
    run_by(stocked, dead)
    assert stocked.sessions.reap_dead() == ()
    clock.pass_time(86_400)
    steady.pass_time(19)
    assert stocked.sessions.reap_dead() == ()
    with pytest.raises(Locked):
        stocked.sessions.begin_job("web")
    assert stocked.sessions.adopt(session.id).process == ProcessIdentity.current()
    stocked.sessions.end(session.id, SessionResult.SUCCESS)
    stocked.sessions.begin_job("web")
    run_by(stocked, dead)
    assert stocked.sessions.reap_dead() == ()
    clock.pass_time(-86_400)
    steady.pass_time(20)
    assert len(stocked.sessions.reap_dead()) == 1


def run_by(catalog: Catalog, process: ProcessIdentity, **more: str) -> None:
    """All sessions that have not ended are this process's."""
    update = sessions.update().where(sessions.c.ended.is_(None))
    with catalog.database.writing() as connection:
        connection.execute(update.values(process=msgspec.to_builtins(process), **more))


def test_the_service_that_led_last_is_known(stocked: Catalog, clock) -> None:
    assert stocked.services.leader() is None
    stocked.services.lead()
    clock.pass_time(5)
    stocked.services.lead()
    leader = stocked.services.leader()
    assert leader is not None
    assert (leader.process, leader.since) == (ProcessIdentity.current(), clock.now)


def chained(name: str, after: str) -> JobSpec:
    schedule = JobSchedule(after=after)
    return JobSpec(name=name, server="lab", include=("*",), repository="main", schedule=schedule)
