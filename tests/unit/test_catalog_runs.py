"""What the service remembers of jobs: one look at all of them, and starts that are claimed once."""

from __future__ import annotations

import msgspec
import pytest

from holdfast_agent.errors import ConfigInvalid, Locked, NotFound
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import InUse
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.runs import JobRuns
from holdfast_manager.catalog.tables import sessions
from holdfast_manager.catalog.values import JobSpec, SessionKind, SessionResult
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
