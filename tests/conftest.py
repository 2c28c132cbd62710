"""Fixtures that several parts of the manager need."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.tables import metadata
from holdfast_manager.catalog.values import AgentEntry, AgentRole, JobSpec, RepositoryEntry, ServerEntry
from holdfast_manager.settings import DatabaseSettings, ManagerSettings

if TYPE_CHECKING:
    from lab.postgresql import PostgresServer

# A busy machine is no finding: what takes too long is ended by pytest's time-out.
settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")


def pytest_configure() -> None:
    """A shell that starts tests in the background has them ignore Ctrl-C, and with them all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, the end waits for nobody who has just begun a long one."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with the mark ``both_databases`` run once with each, as far as they use the catalogue."""
    if "kind_of_database" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_databases"):
        metafunc.parametrize("kind_of_database", ["sqlite", "postgresql"], indirect=True)


pytest_plugins = ["pytester", "lab.hangs", "lab.leaks", "lab.warden"]


class Clock:
    """Time that passes only when a test says so. Unix seconds."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests; each makes databases of its own."""
    from lab.postgresql import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> DatabaseSettings:
    """A database on the server that tests use in turn: emptied sooner than made."""
    shared = DatabaseSettings(postgres.url(postgres.database()))
    Catalog.create(ManagerSettings(data_dir=str(tmp_path_factory.mktemp("shared")), database=shared)).close()
    return shared


@pytest.fixture
def kind_of_database(request: pytest.FixtureRequest) -> str:
    """``sqlite``, unless the mark ``both_databases`` says otherwise."""
    kind: str = getattr(request, "param", "sqlite")
    return kind


@pytest.fixture
def manager_settings(
    request: pytest.FixtureRequest, tmp_path: Path, kind_of_database: str
) -> Iterator[ManagerSettings]:
    """Settings of a manager that keeps its things in the test's directory, and its catalogue where the test says."""
    home = str(tmp_path / "home")
    if kind_of_database == "sqlite":
        yield ManagerSettings(data_dir=home)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    shared: DatabaseSettings = request.getfixturevalue("shared_database")
    yield ManagerSettings(data_dir=home, database=shared)
    server.empty(shared.url, [table.name for table in metadata.sorted_tables])


@pytest.fixture(scope="session")
def empty_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a manager with an empty catalogue on SQLite, to be copied: sooner done than the migrations."""
    home = tmp_path_factory.mktemp("empty") / "home"
    Catalog.create(ManagerSettings(data_dir=str(home))).close()
    return home


@pytest.fixture
def catalog(
    manager_settings: ManagerSettings, clock: Clock, kind_of_database: str, empty_catalog: Path
) -> Iterator[Catalog]:
    """An empty catalogue."""
    if kind_of_database == "sqlite":
        shutil.copytree(empty_catalog, manager_settings.home)
        make = Catalog.open
    else:
        make = Catalog.create
    with make(manager_settings, clock) as made:
        yield made


@pytest.fixture
def stocked(catalog: Catalog) -> Catalog:
    """A catalogue with the server "lab", the agents "a" and "b", the repository "main" on "a" and the job "web"."""
    catalog.servers.add(ServerEntry(name="lab", plugin="images", options={"path": "/vms"}))
    roles = (AgentRole.PROXY, AgentRole.REPOSITORY)
    catalog.agents.add(AgentEntry(name="a", endpoint="a:7700", public_key="A" * 40, roles=roles))
    catalog.agents.add(AgentEntry(name="b", endpoint="b:7700", public_key="B" * 40, roles=(AgentRole.PROXY,)))
    catalog.repositories.add(
        RepositoryEntry(name="main", agent="a", path="/backup", repository_id="00" * 16, encrypted=True)
    )
    catalog.jobs.add(JobSpec(name="web", server="lab", include=("web*",), repository="main"))
    return catalog
