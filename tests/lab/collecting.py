"""Histories that leave work for the collector: dead packs, sparse ones, and points that must stay whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid
from holdfast_agent.repository.repository import Repository
from holdfast_agent.sealing.roots import open_point
from lab import repositories as lab
from lab.contents import assert_same

GEOMETRY = Geometry(10 * lab.BLOCK, lab.LOG2)
KEPT, CHANGED = 4, 6
"""Of ten blocks six change: the pack of the first point is less than 60 % live once that point is pruned."""


class Ground:
    """One repository below ``folder`` and what its unpruned points must hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected: dict[Sid, dict[int, bytes]] = {}
        self._rounds: Iterator[int] = count()
        lab.create(folder / "repository")

    def litter(self) -> None:
        """Two points, the second on the first; then all but the second are pruned."""
        turn = next(self._rounds)
        repository = lab.open_at(self.folder)
        full = {number: lab.block((turn, number)) for number in range(KEPT + CHANGED)}
        change = {number: lab.block((turn, "changed", number)) for number in range(CHANGED)}
        first = lab.backup(repository, full, GEOMETRY)
        second = lab.backup(repository, change, GEOMETRY, first)
        for sid in (first.sid, *self.expected):
            repository.tombstone(sid)
        self.expected = {second.sid: full | change}
        repository.close()

    def check(self) -> None:
        """What must be there is there, whole, and nothing else; through the cache as it is and through a fresh one."""
        repository = lab.open_at(self.folder)
        check_points(repository, self.expected)
        repository.close()


def check_points(repository: Repository, expected: dict[Sid, dict[int, bytes]]) -> None:
    found = {entry.sid: entry for entry in repository.points()}
    assert found.keys() == expected.keys()
    for sid, blocks in expected.items():
        assert_same(lab.restore(repository, open_point(found[sid], lab.KEYS)), blocks, f"point {sid} holds another")
