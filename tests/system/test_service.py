"""The Backup Service with real sessions: schedules, chains, retries, clean-up; killed, restarted, standing by."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionKind, SessionResult, SessionState
from lab.installation import Installation, installed
from lab.postgresql import PostgresServer
from lab.services import SOON, catalogue, done, one_more, quiet, service, sessions, vm
from lab.waiting import wait_until

MIB = 1 << 20
NEVER = ("--schedule", "calendar 2199-01-01")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all tests here, each with VMs and jobs of its own."""
    with installed(tmp_path_factory.mktemp("house")) as made:
        made.add_repository("main", encrypted=False)
        yield made


@pytest.fixture
def catalog(house: Installation) -> Iterator[Catalog]:
    with catalogue(house) as opened:
        yield opened


def test_jobs_run_when_due_and_after_each_other_however_often_the_service_dies(
    house: Installation, catalog: Catalog
) -> None:
    disk = vm(house, "one")
    house.add_job("often", *SOON, repository="main", include="one")
    house.add_job("then", "--after", "often", repository="main", include="one")
    chance = random.Random(3)
    for _ in range(4):
        with service(house) as killed:
            one_more(catalog, "often")
            if chance.random() < 0.5:
                wait_until(lambda: sessions(catalog, "then"), "a chained session")
            killed.kill()
    with service(house) as last:
        done(catalog, "often", 4)
        done(catalog, "then", 2)
        quiet(house, catalog, "often", "then")
    for job in ("often", "then"):
        told = sessions(catalog, job)
        # one that was written down a moment before the service was killed may never have begun; nothing else fails
        assert {each.result for each in told if each.started is not None} == {SessionResult.SUCCESS}, last.log()
        spans = [(each.started, each.ended) for each in told if each.started is not None]
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), "two at once"
    house.restore_disk("one", house.points("one")[0]["sid"], house.out / "back.raw")
    assert (house.out / "back.raw").read_bytes() == disk.read_bytes()


def test_a_session_goes_on_when_the_service_stops_and_the_next_one_finds_it(
    house: Installation, catalog: Catalog
) -> None:
    vm(house, "slow", 6)
    house.add_job("slow", *SOON, "--bandwidth", "1 MiB", repository="main", include="slow")
    with service(house):
        (begun,) = wait_until(lambda: sessions(catalog, "slow"), "a session")
        wait_until(lambda: catalog.tasks.list(begun.id), "a task")
    assert catalog.sessions.get(begun.id).state is SessionState.RUNNING
    assert not house.holdfast("service", "show")["leads"]
    with service(house):
        shown = house.holdfast("service", "show")
        assert shown["leads"]
        assert len(shown["next"]["slow"]) == 3
        (ended, *_) = done(catalog, "slow", 1)
        quiet(house, catalog, "slow")
    assert ended.id == begun.id


def test_what_failed_is_run_again_and_only_that(house: Installation, catalog: Catalog) -> None:
    vm(house, "good")
    bad = house.vms / "bad" / "disk.qcow2"
    bad.parent.mkdir()
    bad.write_bytes(b"QFI\xfb" + bytes(60_000))
    retry = ("--retries", "0", "--session-retries", "20", "--session-retry-pause", "1 s")
    house.add_job("both", *SOON, *retry, "--include", "good", repository="main", include="bad")
    with service(house):
        (first, *_) = done(catalog, "both", 1, SessionResult.PARTIAL)
        house.holdfast("job", "edit", "both", *NEVER)
        done(catalog, "both", 1, SessionResult.FAILED)
        bad.unlink()
        (bad.parent / "disk.raw").write_bytes(b"x" * MIB)
        last = done(catalog, "both", 1)[-1]
        quiet(house, catalog, "both")
    assert last.spec["again"] in [each.id for each in sessions(catalog, "both", SessionResult.FAILED)]
    assert {point["session"] for point in house.points("bad")} == {last.id}
    scheduled = [each.id for each in sessions(catalog, "both") if not each.spec]
    assert {point["session"] for point in house.points("good")} == {*scheduled} >= {first.id}


def test_what_a_killed_session_left_is_removed_by_the_service(house: Installation, catalog: Catalog) -> None:
    vm(house, "left", 4)
    house.add_job("left", "--bandwidth", "1 MiB", repository="main", include="left")
    number = house.holdfast("job", "run", "left", "--detach")["session"]

    def frozen() -> list[Path]:
        place = house.vms / ".holdfast"
        return [path for path in place.iterdir() if path.is_dir()] if place.exists() else []

    wait_until(frozen, "a snapshot")
    os.kill(catalog.sessions.get(number).process.pid, signal.SIGKILL)
    with service(house):
        wait_until(lambda: not frozen() and not catalog.obligations.open_of(), "a clean-up")
        quiet(house, catalog)
    assert catalog.sessions.get(number).result is SessionResult.FAILED
    cleaned = catalog.sessions.list(kind=SessionKind.CLEAN_UP)
    assert [each.result for each in cleaned] == [SessionResult.SUCCESS]


def test_on_postgresql_one_leads_and_the_other_takes_over(tmp_path: Path, postgres: PostgresServer) -> None:
    name = postgres.database()
    try:
        with installed(tmp_path, database=postgres.url(name)) as house, catalogue(house) as catalog:
            house.add_repository("main", encrypted=False)
            vm(house, "one")
            house.add_job("often", *SOON, repository="main", include="one")
            with service(house) as first, service(house) as second:
                done(catalog, "often", 1)
                postgres.cut_connections(name)  # the leader's lock is gone with its connection
                one_more(catalog, "often")
                leader = wait_until(catalog.services.leader, "a leader").process.pid
                dead, other = (first, second) if first.process.pid == leader else (second, first)
                dead.kill()
                one_more(catalog, "often")
                assert wait_until(catalog.services.leader, "a leader").process.pid == other.process.pid
                quiet(house, catalog, "often")
            assert SessionResult.SUCCESS in {each.result for each in sessions(catalog, "often")}
    finally:
        postgres.drop(name)
