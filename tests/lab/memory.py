"""Temporary directories in memory, for tests to which a disk under the files is nothing but time.

A small repository alone has hundreds of directories and syncs each file. A ``conftest.py`` that imports the fixtures
here puts the tests of its folder on a tmpfs where there is one with room, and in the usual place elsewhere. Who gives
``--basetemp`` (and no workers, whose base pytest-xdist gives) decides where all of them are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["disk_path_factory", "tmp_path", "tmp_path_factory"]

_TMPFS = Path("/dev/shm")  # noqa: S108 - names in it are made by mkdtemp
_PREFIX = "holdfast-tests-"
_ROOM_BYTES = 6 << 30


class MemoryPaths:
    """As far as tests use it, what :class:`pytest.TempPathFactory` is; :attr:`on_disk` is the usual one."""

    def __init__(self, root: Path, on_disk: pytest.TempPathFactory) -> None:
        self._root = root
        self.on_disk = on_disk

    def mktemp(self, basename: str) -> Path:
        """A new empty directory."""
        return Path(tempfile.mkdtemp(prefix=f"{basename}-", dir=self._root))


@pytest.fixture(scope="session")
def tmp_path_factory(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[MemoryPaths]:
    """Directories for a module or a whole run; all are gone at its end."""
    told = pytestconfig.getoption("basetemp") is not None and not hasattr(pytestconfig, "workerinput")
    place = tmp_path_factory.getbasetemp()
    if not told and _has_room():
        remove_leftovers()
        place = _TMPFS
    root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))
    yield MemoryPaths(root, tmp_path_factory)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def disk_path_factory(tmp_path_factory: MemoryPaths) -> pytest.TempPathFactory:
    """For the few that shall see the file system of a disk."""
    return tmp_path_factory.on_disk


@pytest.fixture
def tmp_path(tmp_path_factory: MemoryPaths) -> Iterator[Path]:
    """The directory of one test, gone after it."""
    path = tmp_path_factory.mktemp("test")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def remove_leftovers() -> None:
    """Directories of test runs that were killed, and what is mounted in them: their files are memory."""
    for place in _TMPFS.glob(f"{_PREFIX}*"):
        maker = place.name.removeprefix(_PREFIX).split("-")[0]
        if not Path(f"/proc/{maker}").exists():
            for mount_point in _mounted_below(place):
                subprocess.run(["umount", "--lazy", mount_point], check=False)
            shutil.rmtree(place, ignore_errors=True)


def _mounted_below(place: Path) -> list[str]:
    """Mount points, what was mounted last first."""
    mount_points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [each for each in reversed(mount_points) if Path(each).is_relative_to(place)]


def _has_room() -> bool:
    if not os.access(_TMPFS, os.W_OK):
        return False
    found = os.statvfs(_TMPFS)
    return found.f_bavail * found.f_frsize >= _ROOM_BYTES
