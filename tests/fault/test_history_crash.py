"""A whole history (backups, pruning, giving back, collecting) on a disk that loses, reorders and tears at every call.

What was not synced survives in parts or not at all; the local index is lost or stale besides. What was acknowledged
holds, always.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.errors import RepositoryError
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.repository.file_writing import System
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.roots import open_point
from lab import repositories as lab
from lab.contents import assert_same
from lab.faults import FaultySystem, PowerLoss, parts

GEOMETRY = Geometry(10 * lab.BLOCK, lab.LOG2)
FEWEST_CALLS = 200
STRIDE = 9
"""The quick test tries every ninth call; the long ones all, several times."""

Blocks = dict[int, bytes]


class History:
    """Three points, each on the one before; the first is pruned, the second pruned and given back; two collections.

    A step is told before it begins and when it has returned: what it promises holds from then on.
    """

    def __init__(self, seed: object) -> None:
        self.sids = [new_sid() for _ in range(3)]
        full = {number: lab.block((seed, number)) for number in range(10)}
        self.changes: list[Blocks] = [full, {n: lab.block((seed, "second", n)) for n in range(6)}, {9: lab.block(seed)}]
        self.expected: dict[Sid, Blocks] = {}
        content: Blocks = {}
        for sid, change in zip(self.sids, self.changes, strict=True):
            content = content | change
            self.expected[sid] = content
        first, second, _ = self.sids
        self.steps: list[tuple[str, Callable[[Repository], object]]] = [
            ("first committed", lambda repository: self._back_up(repository, 0)),
            ("second committed", lambda repository: self._back_up(repository, 1)),
            ("first pruned", lambda repository: repository.tombstone(first)),
            ("second pruned", lambda repository: repository.tombstone(second, 3600.0)),
            ("collected", collect),
            ("second given back", lambda repository: repository.undo_tombstone(second)),
            ("third committed", lambda repository: self._back_up(repository, 2)),
            ("collected again", collect),
        ]

    def _back_up(self, repository: Repository, number: int) -> None:
        """All blocks are given, as a source that reads everything does; with a base only what differs is stored."""
        base = open_point(repository.point(self.sids[number - 1]), lab.KEYS) if number else None
        sid = self.sids[number]
        lab.backup(repository, self.expected[sid], GEOMETRY, base, sid)

    def run(self, repository: Repository, tell: Callable[[str], None]) -> None:
        for name, step in self.steps:
            tell(f"{name}?")
            step(repository)
            tell(f"{name}.")

    def check(self, repository: Repository, told: list[str]) -> None:
        """Every point is there, or is not, or may be either; what is there is whole."""
        first, second, third = self.sids
        found = {entry.sid: entry for entry in repository.points() if entry.sid in self.expected}
        for sid, entry in found.items():
            assert_same(lab.restore(repository, open_point(entry, lab.KEYS)), self.expected[sid], f"{sid} is not whole")
        must = {
            first: "first committed." in told and "first pruned?" not in told,
            second: "second committed." in told and ("second pruned?" not in told or "second given back." in told),
            third: "third committed." in told,
        }
        must_not = {
            first: "first committed?" not in told or "first pruned." in told,
            second: "second committed?" not in told or ("second pruned." in told and "second given back?" not in told),
            third: "third committed?" not in told,
        }
        for sid in self.sids:
            assert sid in found or not must[sid], f"{sid} is gone, and this was told: {told}"
            assert sid not in found or not must_not[sid], f"{sid} is there, and this was told: {told}"


class Disk:
    """A repository and its cache, and the cache as it was at some earlier moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stale = folder / "stale"
        lab.create(folder / "repository")
        (folder / "stash").mkdir()

    def prune_all(self) -> None:
        """So that the next history leaves something to collect, and the repository stays small."""
        repository = lab.open_at(self.folder)
        for sid in repository.point_sids():
            if repository.committed(sid) is not None:
                repository.tombstone(sid)
        repository.close()
        shutil.rmtree(self.stale, ignore_errors=True)
        shutil.copytree(self.folder / "cache", self.stale)

    def in_child(
        self, system: System, work: Callable[[Repository, Callable[[str], None]], None]
    ) -> tuple[list[str], bool]:
        """(what ``work`` told before it ended or was killed, whether it was killed)."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(lab.open_at(self.folder, system), lambda word: os.write(writer, f"{word}\n".encode()) and None)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read().splitlines()
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), "it failed by itself"
        shutil.rmtree(self.folder / "stash")
        (self.folder / "stash").mkdir()
        return told, status == signal.SIGKILL

    def age_index(self, rng: random.Random) -> None:
        """The local index survived the crash, or is gone, or is that of before the history."""
        choice = rng.choice(["as it is", "gone", "stale"])
        if choice != "as it is":
            shutil.rmtree(self.folder / "cache")
        if choice == "stale":
            shutil.copytree(self.stale, self.folder / "cache")


def recover(repository: Repository, tell: Callable[[str], None]) -> None:
    repository.recover()
    collect(repository)


def crash_everywhere(disk: Disk, first: int, stride: int, seed: int) -> None:
    at = first
    while True:
        rng = random.Random(repr((seed, at)))
        disk.prune_all()
        history = History((seed, at))
        told, killed = disk.in_child(PowerLoss(at, disk.folder / "stash", parts((seed, at))), history.run)
        if not killed:
            break
        disk.age_index(rng)
        if rng.random() < 0.5:  # and once more while it recovers
            again = PowerLoss(rng.randint(1, 80), disk.folder / "stash", parts((seed, at, "again")))
            disk.in_child(again, recover)
        finish(disk, history, told)
        at += stride
    assert at > FEWEST_CALLS, "the history made fewer calls than it must"
    history.check(lab.open_at(disk.folder), told)


def finish(disk: Disk, history: History, told: list[str]) -> None:
    """As it was left, and after the next collectors have ended what was begun: all is as told, and nothing is left."""
    repository = lab.open_at(disk.folder)
    repository.recover()
    history.check(repository, told)
    for place in ("sessions", "tmp"):
        assert not list((disk.folder / "repository" / place).iterdir()), f"something is left in {place}"
    for _ in range(2):
        assert collect(repository).lost_records == 0
    history.check(repository, told)
    report = verify(repository, 2, keys=lab.KEYS)
    assert report.ok, report.findings
    repository.close()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_power_is_lost_in_the_middle_of_a_history(disk: Disk) -> None:
    crash_everywhere(disk, 1, STRIDE, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(2, 12))
def test_power_is_lost_anywhere_in_a_history(disk: Disk, seed: int) -> None:
    crash_everywhere(disk, 1, 1, seed)


def fail_everywhere(disk: Disk, number: int, first: int, stride: int) -> None:
    def fault(kind: str) -> None:
        raise OSError(number, os.strerror(number))

    at = first
    while True:
        disk.prune_all()
        history = History((number, at))
        told: list[str] = []
        system = FaultySystem(at, fault)
        repository = lab.open_at(disk.folder, system)
        try:
            history.run(repository, told.append)
        except RepositoryError:
            assert system.faults
        repository.close()
        if not system.faults:
            break
        finish(disk, history, told)
        at += stride
    assert at > FEWEST_CALLS


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_the_storage_fails_in_the_middle_of_a_history(disk: Disk, number: int) -> None:
    fail_everywhere(disk, number, 1 + number % 7, 3 * STRIDE)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_the_storage_fails_anywhere_in_a_history(disk: Disk, number: int) -> None:
    fail_everywhere(disk, number, 1, 1)
