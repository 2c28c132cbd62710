"""Fixtures that several parts of the manager need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import AgentEntry, AgentRole, JobSpec, RepositoryEntry, ServerEntry
from holdfast_manager.settings import ManagerSettings

# A busy machine is no finding: what takes too long is ended by pytest's time-out.
settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")


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


@pytest.fixture
def manager_settings(tmp_path: Path) -> ManagerSettings:
    """Settings of a manager that keeps its things in the test's directory."""
    return ManagerSettings(data_dir=str(tmp_path / "home"))


@pytest.fixture
def catalog(manager_settings: ManagerSettings, clock: Clock) -> Iterator[Catalog]:
    """An empty catalogue on SQLite."""
    with Catalog.create(manager_settings, clock) as made:
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
