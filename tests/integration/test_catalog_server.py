"""A PostgreSQL server that is killed and restarted, and connections that are cut, under writers and readers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import ConfigInvalid
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.database import Database, url_of
from holdfast_manager.catalog.errors import CatalogUnavailable
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
        self.failed = 0

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            batch = [EventEntry(session=self.session, time=0.0, kind=f"{number} {part}") for part in range(3)]
            try:
                self._catalog.events.append(batch)
            except CatalogUnavailable as error:
                assert error.retryable
                self.failed += 1
            else:
                self.told.append(number)

    def wait_for(self, count: int) -> None:
        """Until so many more batches were acknowledged."""
        goal = len(self.told) + count
        while len(self.told) < goal:
            assert self.is_alive()
            self.stop.wait(0.01)


def test_what_was_acknowledged_is_there_however_often_the_server_dies(server: PostgresServer, tmp_path: Path) -> None:
    name = server.database()
    settings = ManagerSettings(data_dir=str(tmp_path / "home"), database=DatabaseSettings(server.url(name)))
    with Catalog.create(settings) as catalog:
        writers = [Writer(catalog) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            for turn in range(6):
                for writer in writers:
                    writer.wait_for(5)
                if turn % 2:
                    server.kill()
                    server.start()
                else:
                    server.cut_connections(name)
            for writer in writers:
                writer.wait_for(5)
        finally:
            for writer in writers:
                writer.stop.set()
                writer.join()
        for writer in writers:
            kinds = [event.kind for event in catalog.events.after(writer.session, limit=1 << 20)]
            assert len(kinds) == len(set(kinds)), "something was written twice"
            batches = {int(kind.split()[0]) for kind in kinds}
            assert set(writer.told) <= batches, "something that was acknowledged is lost"
            assert len(kinds) == 3 * len(batches), "half a batch was written"
            assert len(batches) <= len(writer.told) + writer.failed


def test_a_server_that_never_answered_is_not_waited_for(tmp_path: Path) -> None:
    url = f"postgresql://holdfast@/x?host={tmp_path}"
    with pytest.raises(CatalogUnavailable, match="No such file or directory"):
        Catalog.open(ManagerSettings(data_dir=str(tmp_path), database=DatabaseSettings(url)))


def test_a_driver_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ManagerSettings(data_dir=str(tmp_path), database=DatabaseSettings("postgresql+pg8000://h/d"))
    with pytest.raises(ConfigInvalid, match=r"pg8000 is not installed.*holdfast\[postgresql\]"):
        Database(url_of(settings))
