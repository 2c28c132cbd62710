"""A PostgreSQL server that is killed and restarted, and connections that are cut, under writers and readers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from holdfast_agent.errors import ConfigInvalid
from holdfast_manager.catalog import Catalog, again, database
from holdfast_manager.catalog.database import Database, url_of
from holdfast_manager.catalog.errors import CatalogUnavailable
from holdfast_manager.catalog.tables import commits
from holdfast_manager.catalog.values import EventEntry, SessionKind
from holdfast_manager.settings import DatabaseSettings, ManagerSettings
from lab.postgresql import PostgresServer, postgres_server


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """One of this test's own, since it is killed."""
    with postgres_server() as made:
        yield made


class Writer(threading.Thread):
    """Appends numbered batches of events until told to stop; ``told`` are those that were acknowledged."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog
        self.session = catalog.sessions.begin(SessionKind.VERIFY, {}).id
        self.stop = threading.Event()
        self.told: list[int] = []

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            self._catalog.events.append(
                [EventEntry(session=self.session, time=0.0, kind=f"{number} {part}") for part in range(3)]
            )
            self.told.append(number)

    def wait_for(self, count: int) -> None:
        """Until so many more batches were acknowledged."""
        goal = len(self.told) + count
        while len(self.told) < goal:
            assert self.is_alive()
            self.stop.wait(0.01)

    def check(self) -> None:
        """All that was acknowledged is there once, and nothing else."""
        kinds = [event.kind for event in self._catalog.events.after(self.session, limit=1 << 20)]
        assert kinds == [f"{number} {part}" for number in self.told for part in range(3)]


@contextmanager
def writing(catalog: Catalog) -> Iterator[list[Writer]]:
    """Two at work; what they wrote is right at the end."""
    writers = [Writer(catalog) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop.set()
            writer.join()
    for writer in writers:
        writer.check()


def test_nothing_is_lost_or_doubled_however_often_the_server_dies(server: PostgresServer, tmp_path: Path) -> None:
    name = server.database()
    settings = ManagerSettings(data_dir=str(tmp_path / "home"), database=DatabaseSettings(server.url(name)))
    with Catalog.create(settings) as catalog, writing(catalog) as writers:
        for turn in range(6):
            for writer in writers:
                writer.wait_for(5)
            if turn % 2:
                server.kill()
                server.start()
            else:
                server.restart()
        for writer in writers:
            writer.wait_for(5)


@pytest.mark.parametrize("cuts", [200, pytest.param(3_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_nothing_is_lost_or_doubled_however_often_connections_are_cut(
    server: PostgresServer, tmp_path: Path, cuts: int
) -> None:
    """In the middle of commits too: whether they were carried out is asked."""
    name = server.database()
    settings = ManagerSettings(data_dir=str(tmp_path / "home"), database=DatabaseSettings(server.url(name)))
    with Catalog.create(settings) as catalog, writing(catalog) as writers:
        for _ in range(cuts):
            server.cut_connections(name)
        for writer in writers:
            writer.wait_for(5)
        with catalog.database.reading() as connection:
            left = connection.scalar(select(func.count()).select_from(commits))
    assert left < 10, "marks of commits that were answered stay"


def test_a_server_that_never_answered_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "_AGAIN_S", 600.0)
    monkeypatch.setattr(database, "_BUSY_S", 600.0)
    monkeypatch.setattr(database, "_FIRST_S", 0.2)
    url = f"postgresql://holdfast@/x?host={tmp_path}"
    with pytest.raises(CatalogUnavailable, match="No such file or directory"):
        Catalog.open(ManagerSettings(data_dir=str(tmp_path), database=DatabaseSettings(url)))


def test_a_driver_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ManagerSettings(data_dir=str(tmp_path), database=DatabaseSettings("postgresql+pg8000://h/d"))
    with pytest.raises(ConfigInvalid, match=r"pg8000 is not installed.*holdfast\[postgresql\]"):
        Database(url_of(settings))
