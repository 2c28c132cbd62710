"""A configuration database whose connections are cut and that is restarted, or locked: sessions and services go on.

`make soak` does it for long, and kills services and sessions at the same time.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import EventEntry, SessionResult
from lab.installation import Installation, installed
from lab.postgresql import PostgresServer, postgres_server
from lab.services import SOON, catalogue, done, one_more, quiet, service, sessions, vm
from lab.waiting import wait_until

CUT_EVERY_S = 0.1
LOCKED_S = 2.0
"""Far longer than anything that Holdfast does in a transaction."""


class Disturbance(threading.Thread):
    """Does ``once`` again and again, until it is told to stop. ``times``: how often it has."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.over = threading.Event()
        self.times = 0
        self._pause_s = pause_s

    def run(self) -> None:
        while not self.over.wait(self._pause_s):
            self.once()
            self.times += 1

    def once(self) -> None:
        raise NotImplementedError


class Cuts(Disturbance):
    """All connections are ended, whatever they do; each hundredth time the whole server is restarted."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        super().__init__(CUT_EVERY_S)
        self._server = server
        self._name = name

    def once(self) -> None:
        self._server.cut_connections(self._name)
        if self.times % 100 == 10:
            self._server.restart()


class Locks(Disturbance):
    """Somebody else has the file for himself, for some time, again and again."""

    def __init__(self, file: Path) -> None:
        super().__init__(0.3)
        self._file = file
        self._chance = random.Random(7)

    def once(self) -> None:
        with closing(sqlite3.connect(self._file, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            self.over.wait(self._chance.uniform(0, LOCKED_S))
            connection.execute("ROLLBACK")


class Place:
    """An installation and what can be done to its database."""

    def __init__(self, house: Installation, server: PostgresServer | None, name: str) -> None:
        self.house = house
        self._server = server
        self._name = name

    @contextmanager
    def disturbed(self) -> Iterator[Disturbance]:
        """The database is disturbed meanwhile."""
        by: Disturbance = Locks(self.house.home / "manager" / "catalog.db")
        if self._server is not None:
            by = Cuts(self._server, self._name)
        by.start()
        try:
            yield by
        finally:
            by.over.set()
            by.join()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("house")
    if request.param == "sqlite":
        with installed(home) as house:
            house.add_repository("main", encrypted=False)
            yield Place(house, None, "")
        return
    with postgres_server() as server:  # of its own, since it is restarted
        name = server.database()
        with installed(home, database=server.url(name)) as house:
            house.add_repository("main", encrypted=False)
            yield Place(house, server, name)


@pytest.fixture
def catalog(place: Place) -> Iterator[Catalog]:
    with catalogue(place.house) as opened:
        yield opened


def test_a_session_goes_on_and_tells_all_once(place: Place, catalog: Catalog) -> None:
    house = place.house
    disk = vm(house, "one", 4)
    house.add_job("one", "--bandwidth", "1 MiB", repository="main", include="one")
    with place.disturbed() as disturbance:
        report = house.run_job("one")
    assert disturbance.times > 2
    assert report["result"] == SessionResult.SUCCESS
    assert_told_once(catalog.events.after(report["id"], limit=1 << 20))
    (task,) = catalog.tasks.list(report["id"])
    assert (task.attempt, task.error) == (1, None), "something was done for nothing"
    assert not catalog.obligations.open_of()
    (point,) = house.points("one")
    house.restore_disk("one", point["sid"], house.out / "one.raw")
    assert (house.out / "one.raw").read_bytes() == disk.read_bytes()


def assert_told_once(events: tuple[EventEntry, ...]) -> None:
    counts = Counter(event.kind for event in events)
    once = ("SessionStarted", "SlotGranted", "TransferBegan", "TransferFinished", "PointCommitted", "SessionEnded")
    assert {kind: counts[kind] for kind in once} == dict.fromkeys(once, 1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_whatever_is_killed_all_is_backed_up_and_nothing_is_left(place: Place, catalog: Catalog) -> None:
    """Services and sessions, killed at any moment, twenty times, while the database is disturbed."""
    house = place.house
    disk = vm(house, "killed", 3)
    retry = ("--session-retries", "20", "--session-retry-pause", "0 s", "--bandwidth", "2 MiB")
    house.add_job("killed", *SOON, *retry, repository="main", include="killed")
    chance = random.Random(17)
    with place.disturbed():
        for _ in range(20):
            with service(house) as running:
                one_more(catalog, "killed")
                running.wait(chance.uniform(0, 5))  # the moment itself, not a wait for something
                for entry in catalog.sessions.living():
                    mine = entry.process.pid == running.process.pid
                    if chance.random() < 0.5 and not entry.process.is_dead() and not mine:
                        os.kill(entry.process.pid, signal.SIGKILL)
                running.kill()
        with service(house):
            done(catalog, "killed", len(sessions(catalog, "killed", SessionResult.SUCCESS)) + 1)
            quiet(house, catalog, "killed")
            wait_until(lambda: not catalog.obligations.open_of(), "a clean-up")
            quiet(house, catalog)
    assert [path for path in (house.vms / ".holdfast").iterdir() if path.is_dir()] == []
    for point in house.points("killed")[:3]:
        house.restore_disk("killed", point["sid"], house.out / f"{point['sid']}.raw")
        assert (house.out / f"{point['sid']}.raw").read_bytes() == disk.read_bytes()
    spans = [(each.started, each.ended) for each in sessions(catalog, "killed") if each.started is not None]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans)), "two at once"
