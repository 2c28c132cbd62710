"""Any order of writing, backing up, pruning, undoing, collecting and crashing: restored = expected, always."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast_agent.errors import UndoWindowOver
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.points import Point
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.roots import open_point
from lab import repositories as lab
from lab.collecting import check_points
from lab.faults import PowerLoss, everything, nothing

BLOCKS = 8
GEOMETRY = Geometry(BLOCKS * lab.BLOCK, lab.LOG2)
NUMBERS = st.integers(0, BLOCKS - 1)
KINDS = st.integers(0, 9)
"""Kinds of blocks; 0 is a hole. Few, so that blocks that were pruned come back."""
MOMENTS = st.integers(1, 90)


class Life(RuleBasedStateMachine):
    """One disk and its repository. ``expected``: what each point that is not pruned must restore to."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-life-"))
        (self.folder / "stash").mkdir()
        lab.create(self.folder / "repository")
        self.repository = lab.open_at(self.folder)
        self.disk: dict[int, int] = {}
        self.points: dict[Sid, tuple[Point, dict[int, int]]] = {}
        self.pruned: dict[Sid, tuple[Point, dict[int, int]]] = {}

    def teardown(self) -> None:
        self.repository.close()
        shutil.rmtree(self.folder)

    @rule(changes=st.dictionaries(NUMBERS, KINDS, min_size=1))
    def write(self, changes: dict[int, int]) -> None:
        self.disk = {number: kind for number, kind in (self.disk | changes).items() if kind}

    @rule(incremental=st.booleans())
    def back_up(self, incremental: bool) -> None:
        point = self._backup(self.repository, new_sid(), incremental)
        self.points[point.sid] = (point, dict(self.disk))

    @precondition(lambda self: self.points)
    @rule(which=st.integers(0), window=st.sampled_from([0.0, 3600.0]))
    def prune(self, which: int, window: float) -> None:
        sid = sorted(self.points)[which % len(self.points)]
        assert self.repository.tombstone(sid, window)
        self.pruned[sid] = self.points.pop(sid)

    @precondition(lambda self: self.pruned)
    @rule(which=st.integers(0))
    def undo(self, which: int) -> None:
        sid = sorted(self.pruned)[which % len(self.pruned)]
        with contextlib.suppress(UndoWindowOver):
            assert self.repository.undo_tombstone(sid)
            self.points[sid] = self.pruned.pop(sid)

    @rule()
    def collect_garbage(self) -> None:
        assert collect(self.repository).lost_records == 0

    @rule()
    def verify_all(self) -> None:
        report = verify(self.repository, 2, keys=lab.KEYS)
        assert report.ok, report.findings

    @rule()
    def lose_the_cache(self) -> None:
        self.repository.close()
        shutil.rmtree(self.folder / "cache")
        self.repository = lab.open_at(self.folder)

    @rule(at=MOMENTS, lose=st.booleans(), incremental=st.booleans())
    def crash_in_a_backup(self, at: int, lose: bool, incremental: bool) -> None:
        sid = new_sid()
        self._crash(at, lose, lambda repository: self._backup(repository, sid, incremental))
        entry = {entry.sid: entry for entry in self.repository.points()}.get(sid)
        if entry is not None:
            self.points[sid] = (open_point(entry, lab.KEYS), dict(self.disk))

    @rule(at=MOMENTS, lose=st.booleans())
    def crash_in_a_collection(self, at: int, lose: bool) -> None:
        self._crash(at, lose, collect)

    @invariant()
    def restored_is_expected(self) -> None:
        check_points(self.repository, {sid: _plain(disk) for sid, (_, disk) in self.points.items()})

    def _backup(self, repository: Repository, sid: Sid, incremental: bool) -> Point:
        """All blocks are given, as a source that reads everything does; with a base only what differs is stored."""
        base = self.points[max(self.points)][0] if incremental and self.points else None
        blocks = {number: lab.block(kind) if (kind := self.disk.get(number)) else lab.ZERO for number in range(BLOCKS)}
        return lab.backup(repository, blocks, GEOMETRY, base, sid)

    def _crash(self, at: int, lose: bool, work: Callable[[Repository], object]) -> None:
        """Do it in a child that is killed before its ``at``-th call, or comes to its end before."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(lab.open_at(self.folder, PowerLoss(at, self.folder / "stash", nothing if lose else everything)))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), "it failed by itself"
        shutil.rmtree(self.folder / "stash")
        (self.folder / "stash").mkdir()
        self.repository.recover()


def _plain(disk: dict[int, int]) -> dict[int, bytes]:
    return {number: lab.block(kind) for number, kind in disk.items()}


QUICK = settings(max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
TestLife = Life.TestCase
TestLife.settings = QUICK


@pytest.mark.soak
@pytest.mark.timeout(7200)
class TestLongLife(Life.TestCase):
    settings = settings(QUICK, max_examples=1500, stateful_step_count=40)
