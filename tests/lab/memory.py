"""Temporary directories in memory, for tests to which a disk under the files is nothing but time.

A small repository alone has hundreds of directories and syncs each file. A ``conftest.py`` that imports the fixtures
here puts the tests of its folder on a tmpfs where there is one with room.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_TMPFS = Path("/dev/shm")  # noqa: S108 - names in it are made by mkdtemp
_ROOM_BYTES = 2 << 30


class MemoryPaths:
    """As far as tests use it, what :class:`pytest.TempPathFactory` is."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def mktemp(self, basename: str) -> Path:
        """A new empty directory."""
        return Path(tempfile.mkdtemp(prefix=f"{basename}-", dir=self._root))


@pytest.fixture(scope="session")
def tmp_path_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.TempPathFactory | MemoryPaths]:
    """Directories for a module or a whole run."""
    if not _has_room():
        yield tmp_path_factory
        return
    root = tempfile.mkdtemp(prefix="holdfast-tests-", dir=_TMPFS)
    yield MemoryPaths(Path(root))
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory | MemoryPaths) -> Iterator[Path]:
    """The directory of one test, gone after it."""
    path = tmp_path_factory.mktemp("test")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _has_room() -> bool:
    if not os.access(_TMPFS, os.W_OK):
        return False
    found = os.statvfs(_TMPFS)
    return found.f_bavail * found.f_frsize >= _ROOM_BYTES
