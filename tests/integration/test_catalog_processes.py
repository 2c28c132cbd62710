"""Several processes on one catalogue: nothing lost, nothing given twice, the dead recognised."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import Locked
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.processes import ProcessIdentity
from holdfast_manager.catalog.values import SessionKind, SessionResult, SessionState
from holdfast_manager.scheduler.slots import SlotGrant, SlotLedger
from holdfast_manager.settings import ManagerSettings
from lab.slots import wish

pytestmark = pytest.mark.both_databases
WORKER = Path(__file__).with_name("catalog_worker.py")


class Worker:
    """One worker process; killed and reaped when the test leaves."""

    def __init__(self, settings: ManagerSettings, part: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), part, str(settings.home), *arguments],
            env={**os.environ, "CATALOG_URL": settings.database.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def workers(count: int, settings: ManagerSettings, *arguments: str) -> Iterator[list[Worker]]:
    """Workers that have all been told to begin at the same moment."""
    started = [Worker(settings, *arguments) for _ in range(count)]
    try:
        for worker in started:
            assert worker.line() == "ready"
        for worker in started:
            worker.go()
        yield started
    finally:
        for worker in started:
            worker.kill()
            worker.process.stdin.close()
            worker.process.stdout.close()


def test_many_open_a_catalogue_that_is_not_migrated_yet(tmp_path: Path) -> None:
    """SQLite's: a shared database is migrated when the administrator says so."""
    manager_settings = ManagerSettings(data_dir=str(tmp_path / "home"))
    manager_settings.home.mkdir()
    (manager_settings.home / "catalog.db").touch(0o600)
    with workers(4, manager_settings, "open_and_close") as all_of_them:
        assert [worker.line() for worker in all_of_them] == ["0"] * 4
        assert [worker.process.wait() for worker in all_of_them] == [0] * 4


def test_of_many_that_begin_a_job_one_wins(stocked: Catalog, manager_settings: ManagerSettings) -> None:
    with workers(4, manager_settings, "begin_job") as all_of_them:
        answers = sorted(worker.line() for worker in all_of_them)
        assert answers[:3] == ["locked"] * 3
        assert answers[3].startswith("won ")
        with pytest.raises(Locked, match=f"session {answers[3].split()[1]}"):
            stocked.sessions.begin_job("web")


def test_events_of_many_writers_are_all_there_in_order(stocked: Catalog, manager_settings: ManagerSettings) -> None:
    with workers(3, manager_settings, "write_events", "20") as all_of_them:
        sessions = [int(worker.line()) for worker in all_of_them]
    assert len(set(sessions)) == 3
    for session in sessions:
        kinds = [event.kind for event in stocked.events.after(session)]
        assert kinds == [f"{batch} {n}" for batch in range(20) for n in range(5)]


def test_a_killed_session_is_recognised_and_frees_job_and_slots(
    stocked: Catalog, manager_settings: ManagerSettings
) -> None:
    _one_slot_on_a(stocked)
    with workers(1, manager_settings, "hold") as (holder,):
        dead = int(holder.line().split()[0])
        assert stocked.sessions.reap_dead() == ()
        assert stocked.sessions.get(dead).process == ProcessIdentity.of(holder.process.pid)
        holder.kill()
        (buried,) = stocked.sessions.reap_dead()
    assert (buried.id, buried.state, buried.result) == (dead, SessionState.ENDED, SessionResult.FAILED)
    assert buried.error is not None
    assert buried.error.message.startswith("the session process died")
    assert [owed.data for owed in stocked.obligations.open_of(session=dead)] == [{"id": "s1"}]
    assert stocked.sessions.reap_dead() == ()
    following = stocked.sessions.begin_job("web")
    ledger = SlotLedger(stocked)
    ledger.request(following.id, 1, wish("a"))
    assert ledger.poll(following.id).grants == (SlotGrant(1, "a", "main"),)


def test_a_zombie_is_dead_and_begin_job_buries_it(stocked: Catalog, manager_settings: ManagerSettings) -> None:
    with workers(1, manager_settings, "hold") as (holder,):
        dead = int(holder.line().split()[0])
        holder.process.send_signal(signal.SIGKILL)
        # not reaped: waits until it is a zombie, and leaves it one
        os.waitid(os.P_PID, holder.process.pid, os.WEXITED | os.WNOWAIT)
        assert stocked.sessions.begin_job("web").id > dead
        assert stocked.sessions.get(dead).result is SessionResult.FAILED


def test_slots_of_a_killed_session_lapse_without_anyone_reaping_it(
    stocked: Catalog, manager_settings: ManagerSettings, clock
) -> None:
    """As when the dead session ran on another host, where nobody can see its process."""
    _one_slot_on_a(stocked)
    with workers(1, manager_settings, "hold") as (holder,):
        holder.line()
        holder.kill()
    clock.now = time.time()
    other = stocked.sessions.begin(SessionKind.RESTORE, {}).id
    ledger = SlotLedger(stocked, clock)
    ledger.request(other, 7, wish("a"))
    (wait,) = ledger.poll(other).waits
    assert wait.reason == "waiting for a slot on proxy a, next in line"
    looks = 0
    while not (granted := ledger.poll(other).grants):
        clock.pass_time(10)
        looks += 1
        assert looks <= 7, "its slot lasts longer than a lease"
    assert looks >= 5, "it was not given the time of a lease"
    assert granted == (SlotGrant(7, "a", "main"),)


def test_contending_sessions_never_exceed_a_limit_and_all_are_served(
    stocked: Catalog, manager_settings: ManagerSettings, tmp_path: Path
) -> None:
    limits = {"proxy-a": 1, "proxy-b": 2, "repository-main": 2}
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("a"), proxy_slots=1, repository_slots=9))
    stocked.agents.update(msgspec.structs.replace(stocked.agents.get("b"), proxy_slots=2))
    stocked.repositories.update(msgspec.structs.replace(stocked.repositories.get("main"), slots=2))
    for name in limits:
        (tmp_path / "marks" / name).mkdir(parents=True)
    with workers(3, manager_settings, "run_tasks", str(tmp_path / "marks"), "6") as all_of_them:
        answers = [worker.line() for worker in all_of_them]
        assert [worker.process.wait() for worker in all_of_them] == [0] * 3
    for answer in answers:
        seen = {name: int(count) for name, count in (part.split("=") for part in answer.split())}
        assert seen["repository-main"] >= 1
        assert all(count <= limits[name] for name, count in seen.items()), answers
    assert [entry.result for entry in stocked.sessions.list()] == [SessionResult.SUCCESS] * 3


def _one_slot_on_a(catalog: Catalog) -> None:
    catalog.agents.update(msgspec.structs.replace(catalog.agents.get("a"), proxy_slots=1))
