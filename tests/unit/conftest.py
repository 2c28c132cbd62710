"""Files are kept in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.repository.repository import Repository
from lab import repositories
from lab.command_line import holdfast
from lab.memory import disk_path_factory, tmp_path, tmp_path_factory

__all__ = ["disk_path_factory", "holdfast", "tmp_path", "tmp_path_factory"]


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """An empty one in the test's folder, open."""
    repositories.create(tmp_path / "repository")
    opened = repositories.open_at(tmp_path)
    yield opened
    opened.close()
