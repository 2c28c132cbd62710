"""A collector is killed before each system call, or the storage fails: points stay whole, the next one ends it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.errors import RepositoryError
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.verify import verify
from lab import repositories as lab
from lab.collecting import Ground
from lab.faults import FaultySystem, PowerLoss, everything, nothing

FEWEST_CALLS = 60
STRIDE = 5
"""The quick tests try every fifth call, each test another fifth; the long ones all."""


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    (tmp_path / "stash").mkdir()
    return Ground(tmp_path)


def collect_and_die(ground: Ground, at: int, lose: bool) -> bool:
    """Collect in a child that is killed before its ``at``-th call; whether it came so far."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            collect(lab.open_at(ground.folder, PowerLoss(at, ground.folder / "stash", nothing if lose else everything)))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    shutil.rmtree(ground.folder / "stash")
    (ground.folder / "stash").mkdir()
    assert status in (0, signal.SIGKILL), "the collector failed by itself"
    return status == signal.SIGKILL


def finish(ground: Ground) -> None:
    """The next collector ends what was begun, and the one after it finds nothing."""
    ground.check()
    repository = lab.open_at(ground.folder)
    collect(repository)
    collect(repository)
    last = collect(repository)
    assert (last.swept_packs, last.lost_records) == (0, 0)
    assert last.live_bytes > 0.6 * (last.stored_bytes - last.packs * 1024), "garbage was left"
    repository.close()
    ground.check()


def kill_everywhere(ground: Ground, first: int, stride: int, lose: bool) -> None:
    at = first
    while True:
        ground.litter()
        if not collect_and_die(ground, at, lose):
            break
        if at % 3 == 0:
            shutil.rmtree(ground.folder / "cache")
        finish(ground)
        at += stride
    assert at > FEWEST_CALLS, "the collector made fewer calls than it must"
    finish(ground)
    repository = lab.open_at(ground.folder)
    report = verify(repository, 2, keys=lab.KEYS)
    assert report.ok, report.findings
    repository.close()


@pytest.mark.parametrize(("first", "lose"), [(1, False), (3, True)], ids=["killed", "power-lost"])
def test_a_collector_that_is_killed_harms_nothing(ground: Ground, first: int, lose: bool) -> None:
    kill_everywhere(ground, first, STRIDE, lose)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lose", [False, True], ids=["killed", "power-lost"])
def test_a_collector_that_is_killed_anywhere_harms_nothing(ground: Ground, lose: bool) -> None:
    kill_everywhere(ground, 1, 1, lose)


def raising(number: int) -> Callable[[str], None]:
    def fault(kind: str) -> None:
        raise OSError(number, os.strerror(number))

    return fault


def fail_everywhere(ground: Ground, number: int, first: int, stride: int) -> None:
    at = first
    while True:
        ground.litter()
        system = FaultySystem(at, raising(number))
        repository = lab.open_at(ground.folder, system)
        failed = False
        try:
            collect(repository)
        except RepositoryError:
            failed = True
        repository.close()
        if not system.faults:
            assert not failed
            break
        finish(ground)
        at += stride
    assert at > FEWEST_CALLS


@pytest.mark.parametrize(("number", "first"), [(errno.EIO, 2), (errno.ENOSPC, 4)], ids=["EIO", "ENOSPC"])
def test_an_error_of_the_storage_harms_nothing(ground: Ground, number: int, first: int) -> None:
    fail_everywhere(ground, number, first, STRIDE)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_an_error_of_the_storage_anywhere_harms_nothing(ground: Ground, number: int) -> None:
    fail_everywhere(ground, number, 1, 1)
