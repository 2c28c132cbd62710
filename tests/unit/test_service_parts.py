"""The parts of the service, each by itself: who leads, what is tried again when, who looks after which process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import make_url

from holdfast_agent.errors import UsageError
from holdfast_agent.model.ids import Sid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.tables import sessions
from holdfast_manager.catalog.values import (
    CopySettings,
    JobSpec,
    PointEntryRow,
    RepositoryEntry,
    SessionEntry,
    SessionKind,
    SessionResult,
    SessionState,
)
from holdfast_manager.schedules.schedule import JobSchedule
from holdfast_manager.service.jobs import OCCUPIED_S, JobWatch
from holdfast_manager.service.leadership import FileLeadership, Leadership, ServerLeadership, leadership
from holdfast_manager.service.orphan_hunter import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    OrphanHunter,
    Try,
    due_now,
    pause_after,
)
from holdfast_manager.service.starter import Starter
from holdfast_manager.service.systemd import Supervisor
from holdfast_manager.sessions.launch import SessionNotStarted
from holdfast_manager.settings import ManagerSettings
from lab.postgresql import PostgresServer
from lab.waiting import wait_until

EVERY_HOUR = JobSchedule(start=("every 1 h",))


class Recorded(Starter):
    """Writes sessions down, and starts no process for them."""

    def __init__(self, room: int = 99) -> None:
        self.begun: list[SessionEntry] = []
        self.room = room

    @property
    def has_room(self) -> bool:
        return len(self.begun) < self.room

    def start(self, begin) -> SessionEntry:
        self.begun.append(begin())
        return self.begun[-1]


@pytest.fixture
def leaders(catalog: Catalog, manager_settings: ManagerSettings) -> tuple[Leadership, Leadership]:
    """Of two services."""
    made = leadership(manager_settings, catalog), leadership(manager_settings, catalog)
    assert isinstance(made[0], FileLeadership if catalog.database.is_sqlite else ServerLeadership)
    return made


@pytest.mark.both_databases
def test_one_leads_until_it_gives_up(leaders: tuple[Leadership, Leadership]) -> None:
    first, second = leaders
    assert not first.is_held()
    assert not second.is_taken()
    assert first.take() and first.take() and first.is_held()
    assert second.is_taken() and not second.take() and not second.is_held()
    first.give_up()
    first.give_up()
    assert second.take() and not first.take() and first.is_taken()
    second.give_up()
    assert not first.is_taken()


@pytest.mark.parametrize("kind_of_database", ["postgresql"], indirect=True)
def test_a_leader_whose_connection_is_cut_leads_no_more(
    leaders: tuple[Leadership, Leadership], manager_settings: ManagerSettings, postgres: PostgresServer
) -> None:
    first, second = leaders
    assert first.take()
    postgres.cut_connections(make_url(manager_settings.database.url).database or "")
    assert not first.is_held()
    assert second.take()
    assert not first.take()
    second.give_up()
    assert first.take()
    first.give_up()


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from holdfast_manager.service.leadership import FileLeadership;"
        "print(FileLeadership(Path(sys.argv[1])).take(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        mine = FileLeadership(tmp_path / "lock")
        assert not mine.take()
        other.kill()
        other.wait()
        assert mine.take()
        mine.give_up()


def test_systemd_is_told_and_sessions_do_not_inherit_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "s"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
        monkeypatch.setenv("WATCHDOG_USEC", "1")
        supervisor = Supervisor()
        supervisor.tell("READY=1", "STATUS=leads")
        assert told.recv(100) == b"READY=1\nSTATUS=leads"
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ)
    supervisor.tell("WATCHDOG=1")  # nobody is there any more
    Supervisor().tell("READY=1")


def test_pauses_between_clean_ups_grow_up_to_a_limit() -> None:
    assert [pause_after(number) for number in range(4)] == [0, FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 16 * FIRST_PAUSE_S]
    assert pause_after(100) == LONGEST_PAUSE_S
    tried = {"a": Try(1000.0, 1), "b": Try(1000.0, 2), "c": Try(5000.0, 3)}
    assert due_now(dict.fromkeys("abcd"), tried, 1059.0) == ["c", "d"], "a clock that went back delays none"
    assert due_now(dict.fromkeys("abd"), tried, 1060.0) == ["a", "d"]


def test_what_dead_sessions_left_is_hunted_and_what_living_ones_hold_is_not(stocked: Catalog, clock) -> None:
    starter = Recorded()
    hunter = OrphanHunter(stocked, starter)
    session = stocked.sessions.begin_job("web").id
    owed = stocked.obligations.write(session, "lab", "images", "snapshot", {})
    hunter.look(clock.now)
    assert starter.begun == []
    stocked.sessions.end(session, SessionResult.FAILED)
    hunter.look(clock.now)
    (first,) = starter.begun
    assert (first.kind, first.spec) == (SessionKind.CLEAN_UP, {"server": "lab"})
    clock.pass_time(FIRST_PAUSE_S)
    hunter.look(clock.now)
    assert len(starter.begun) == 1, "one is under way"
    stocked.sessions.end(first.id, SessionResult.FAILED)
    hunter.look(clock.now)
    assert len(starter.begun) == 2
    stocked.sessions.end(starter.begun[1].id, SessionResult.FAILED)
    clock.pass_time(FIRST_PAUSE_S)
    hunter.look(clock.now)
    assert len(starter.begun) == 2, "the second pause is longer"
    stocked.obligations.strike(owed)
    hunter.look(clock.now)
    stocked.obligations.write(session, "lab", "images", "snapshot", {})
    hunter.look(clock.now)
    assert len(starter.begun) == 3, "another thing is seen to at once"


def test_jobs_wait_for_room_and_one_that_is_broken_delays_no_other(
    stocked: Catalog, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = msgspec.structs.replace(stocked.jobs.get("web"), schedule=EVERY_HOUR)
    for name in ("a", "b", "web"):
        spec = msgspec.structs.replace(web, name=name)
        (stocked.jobs.update if name == "web" else stocked.jobs.add)(spec)
    starter = Recorded(room=1)
    watch = JobWatch(stocked, starter)
    watch.look(clock.now)
    clock.pass_time(3600)
    watch.look(clock.now)
    assert [entry.job for entry in starter.begun] == ["a"]
    starter.room = 9
    begin = stocked.sessions.begin_job

    def broken(job: str, *more) -> SessionEntry:
        if job == "b":
            raise UsageError(reason="broken")
        return begin(job, *more)

    monkeypatch.setattr(stocked.sessions, "begin_job", broken)
    assert watch.look(clock.now) == clock.now + 60
    assert [entry.job for entry in starter.begun] == ["a", "web"]
    monkeypatch.undo()
    watch.look(clock.now + 59)
    assert len(starter.begun) == 2
    watch.look(clock.now + 60)
    assert [entry.job for entry in starter.begun] == ["a", "web", "b"]
    watch.look(clock.now)
    assert len(starter.begun) == 3


def test_another_service_does_not_start_what_one_has_claimed(stocked: Catalog, clock) -> None:
    """Two that both believe to lead, as at the turn."""
    stocked.jobs.update(msgspec.structs.replace(stocked.jobs.get("web"), schedule=EVERY_HOUR))
    starters = [Recorded(), Recorded()]
    watches = [JobWatch(stocked, starter) for starter in starters]
    for watch in watches:
        watch.look(clock.now)
    clock.pass_time(3600)
    facts = stocked.runs.look()
    for watch in watches:
        watch.look(clock.now)
        for entry in stocked.sessions.living():
            stocked.sessions.end(entry.id, SessionResult.SUCCESS)
    assert facts[0].last is None
    assert [len(starter.begun) for starter in starters] == [1, 0]


def test_a_process_that_ends_before_it_begins_ends_its_session(
    catalog: Catalog, manager_settings: ManagerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "broken.toml"
    config.write_text("nonsense = 1\n")
    starter = Starter(manager_settings, catalog, config)
    entry = starter.start(lambda: catalog.sessions.begin(SessionKind.VERIFY, {}))
    assert starter.busy

    def ended() -> bool:
        starter.look()
        return catalog.sessions.get(entry.id).state is SessionState.ENDED

    wait_until(ended, "its end")
    error = catalog.sessions.get(entry.id).error
    assert error is not None
    assert error.code == SessionNotStarted.code
    starter.look()
    assert not starter.busy


def test_a_child_that_was_adopted_is_left_alone(catalog: Catalog, manager_settings: ManagerSettings) -> None:
    starter = Starter(manager_settings, catalog, None)
    entry = starter.start(lambda: catalog.sessions.begin(SessionKind.VERIFY, {}))
    me = msgspec.to_builtins(ProcessIdentity.current())
    with catalog.database.writing() as connection:
        connection.execute(sessions.update().values(state="running", process=me))
    child = starter._processes[entry.id]
    assert isinstance(child, subprocess.Popen)
    child.kill()
    child.wait()
    starter.look()
    assert not starter.busy
    assert catalog.sessions.get(entry.id).state is SessionState.RUNNING


def test_copies_into_one_repository_take_turns(stocked: Catalog) -> None:
    """Without a process for each look at the one that is in the way."""
    far = RepositoryEntry(name="far", agent="a", path="/far", repository_id="22" * 16, encrypted=False)
    stocked.repositories.add(far)
    immediate = JobSchedule(immediate=True)
    for name in ("one", "two"):
        stocked.jobs.add(JobSpec(name=name, repository="far", copy=CopySettings(origin="main"), schedule=immediate))
    fields = {"server": "lab", "job": "web", "vm_id": "1", "vm_name": "web", "created": 5.0, "size_bytes": 1}
    stocked.points.add(PointEntryRow(sid=Sid("ab" * 16), repository="main", **fields))
    recorded = Recorded()
    watch = JobWatch(stocked, recorded)
    assert watch.look(1000.0) == 1000.0 + OCCUPIED_S
    (begun,) = recorded.begun
    assert (begun.job, begun.spec["origin"], begun.spec["job"]) == ("one", "main", "one")
    watch.look(1000.0 + OCCUPIED_S)
    assert len(recorded.begun) == 1
    stocked.sessions.end(begun.id, SessionResult.SUCCESS)
    watch.look(1001.0 + 2 * OCCUPIED_S)
    assert [each.job for each in recorded.begun] == ["one", "two"]
    stocked.sessions.end(recorded.begun[1].id, SessionResult.SUCCESS)
    watch.look(1100.0)
    watch.look(1200.0)
    assert len(recorded.begun) == 2, "the point is dealt with"
