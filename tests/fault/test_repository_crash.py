"""Kill a writer before every system call of a two-point history, with and without loss of what was not synced."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.roots import open_point
from lab import repositories as lab
from lab.faults import FaultySystem
from lab.mortal import open_mortal, told_before_death

GEOMETRY = Geometry(4 * lab.BLOCK, lab.LOG2)
LARGE = Geometry(10 << 20, lab.LOG2)
PARTS = 8


class History:
    """Two points, the second an incremental on the first; all contents follow from ``seed``."""

    def __init__(self, seed: object) -> None:
        self.sids = (new_sid(), new_sid())
        self.full = {number: lab.block((seed, number)) for number in range(3)}
        self.change = {1: lab.block((seed, "changed"))}

    def run(self, repository: Repository, acknowledge: int | None = None) -> None:
        """Write both points; tell each commit on the descriptor ``acknowledge`` once it has returned."""
        first = lab.backup(repository, self.full, GEOMETRY, sid=self.sids[0])
        if acknowledge is not None:
            os.write(acknowledge, b"1")
        lab.backup(repository, self.change, GEOMETRY, first, sid=self.sids[1])
        if acknowledge is not None:
            os.write(acknowledge, b"2")

    def expected(self, sid: Sid) -> dict[int, bytes]:
        return self.full if sid == self.sids[0] else {**self.full, **self.change}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    lab.create(tmp_path / "repository")
    (tmp_path / "stash").mkdir()
    yield tmp_path


def calls_of_a_history(folder: Path) -> int:
    system = FaultySystem()
    repository = lab.open_at(folder, system)
    History("count").run(repository)
    repository.close()
    return system.calls


def run_and_die(folder: Path, history: History, at: int, lose: bool) -> int:
    """Run the history in a child that is killed before its ``at``-th call. How many commits it acknowledged."""
    return told_before_death(lambda told: history.run(open_mortal(folder, at, lose), told))


def check_after_crash(folder: Path, history: History, acknowledged: int) -> None:
    repository = lab.open_at(folder)
    repository.recover()
    for place in ("sessions", "tmp"):
        # What was removed while the killed process had it open has such a name on NFS until the kernel's next moment.
        left = [path for path in (folder / "repository" / place).iterdir() if not path.name.startswith(".nfs")]
        assert not left, place
    committed = {entry.sid: entry for entry in repository.points()}
    assert set(history.sids[:acknowledged]) <= committed.keys(), "an acknowledged commit is gone"
    for sid in history.sids:
        if sid in committed:
            assert lab.restore(repository, open_point(committed[sid], lab.KEYS)) == history.expected(sid)
    repository.close()


@pytest.mark.parametrize("lose", [False, True], ids=["killed", "power-lost"])
@pytest.mark.parametrize("part", range(PARTS))
def test_every_prefix_of_a_history_leaves_whole_points(folder: Path, part: int, lose: bool) -> None:
    total = calls_of_a_history(folder)
    assert total > 60
    for at in range(1 + part, total + 1, PARTS):
        history = History((part, at))
        acknowledged = run_and_die(folder, history, at, lose)
        check_after_crash(folder, history, acknowledged)
    repository = lab.open_at(folder)
    after = History("after")
    after.run(repository)
    points = repository.points()
    assert {entry.sid for entry in points} >= set(after.sids)
    report = verify(repository, 2, keys=lab.KEYS)
    assert report.ok, report.findings
    before = repository.index.rebuild()
    assert before == repository.index.rebuild()
    repository.close()


class LargeHistory(History):
    """Its point fills a pack of several steps, which are written while it fills."""

    def __init__(self, seed: object) -> None:
        super().__init__(seed)
        source = random.Random(repr(seed))
        self.full = {number: source.randbytes(lab.BLOCK) for number in range(LARGE.blocks)}

    def run(self, repository: Repository, acknowledge: int | None = None) -> None:
        lab.backup(repository, self.full, LARGE, sid=self.sids[0])


def test_a_pack_that_is_cut_off_while_it_fills_is_no_pack(folder: Path) -> None:
    for at in range(8, 20):  # seven are the session's record's, and how many steps a pack takes is not the same always
        history = LargeHistory(at)
        assert run_and_die(folder, history, at, lose=True) == 0
        check_after_crash(folder, history, 0)
    repository = lab.open_at(folder)
    assert verify(repository, 2, keys=lab.KEYS).ok
    repository.close()


def test_a_session_lives_as_long_as_any_process_that_inherited_its_lock(folder: Path) -> None:
    repository = lab.open_at(folder)
    lock = repository.begin_session(sid := new_sid())
    reader, writer = os.pipe()
    child = os.fork()  # a target mover: it inherits the descriptor and outlives the service
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    lock.close()
    assert repository.recover().fenced == ()
    os.close(writer)
    os.waitpid(child, 0)
    assert repository.recover().fenced == (sid,)
    repository.close()
