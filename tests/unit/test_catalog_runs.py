"""What the service remembers of jobs: one look at all of them, and starts that are claimed once."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import ConfigInvalid, Locked, NotFound
from holdfast_agent.model.ids import Sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.runs import JobRuns
from holdfast_manager.catalog.tables import sessions
from holdfast_manager.catalog.values import (
    CopySettings,
    JobSpec,
    PointEntryRow,
    PointScope,
    RepositoryEntry,
    SessionKind,
    SessionResult,
)
from holdfast_manager.schedules.due import LastSession, RunState
from holdfast_manager.schedules.schedule import JobSchedule

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
    stocked.points.replace_all("main", rows)
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


def test_a_session_of_another_host_lives_as_long_as_it_says(stocked: Catalog, clock) -> None:
    session = stocked.sessions.begin_job("web")
    elsewhere = msgspec.structs.replace(ProcessIdentity.current(), host="elsewhere")
    with stocked.database.writing() as connection:
        connection.execute(sessions.update().values(process=msgspec.to_builtins(elsewhere), state="running"))
    clock.pass_time(299)
    stocked.sessions.stay_alive(session.id, 500)
    clock.pass_time(499)
    assert stocked.sessions.reap_dead() == ()
    assert not stocked.sessions.stop_requested(session.id)
    clock.pass_time(2)
    assert [each.id for each in stocked.sessions.reap_dead()] == [session.id]
    assert stocked.sessions.stop_requested(session.id), "it must stop, should it still be there"
    stocked.sessions.stay_alive(session.id, 500)
    assert stocked.sessions.get(session.id).result is SessionResult.FAILED


def test_a_session_whose_giver_died_may_still_be_adopted_for_a_while(stocked: Catalog, clock) -> None:
    session = stocked.sessions.begin_job("web")
    dead = msgspec.structs.replace(ProcessIdentity.current(), start_ticks=1)
    with stocked.database.writing() as connection:
        connection.execute(sessions.update().values(process=msgspec.to_builtins(dead)))
    assert stocked.sessions.reap_dead() == ()
    with pytest.raises(Locked):
        stocked.sessions.begin_job("web")
    assert stocked.sessions.adopt(session.id).process == ProcessIdentity.current()
    stocked.sessions.end(session.id, SessionResult.SUCCESS)
    stocked.sessions.begin_job("web")
    with stocked.database.writing() as connection:
        connection.execute(sessions.update().values(process=msgspec.to_builtins(dead)))
    clock.pass_time(21)
    assert len(stocked.sessions.reap_dead()) == 1


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
