"""Tombstones: they hide a committed point, once and for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast_agent.errors import ObjectDamaged, PointNotFound
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import new_sid
from lab import repositories as lab

GEOMETRY = Geometry(2 * lab.BLOCK, lab.LOG2)


def test_a_tombstone_hides_a_point_and_leaves_it_where_it_is(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    repository = lab.open_at(tmp_path)
    first, second = (lab.backup(repository, {0: lab.block(number)}, GEOMETRY) for number in range(2))
    assert repository.tombstone(first.sid)
    assert not repository.tombstone(first.sid), "it was hidden before"
    assert [entry.sid for entry in repository.points()] == [second.sid]
    assert repository.committed(first.sid) is not None
    with pytest.raises(PointNotFound):
        repository.point(first.sid)
    repository.close()


def test_only_what_was_committed_can_be_hidden(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    repository = lab.open_at(tmp_path)
    fenced = new_sid()
    repository.begin_session(fenced).close()
    repository.abort(fenced)
    for sid in (fenced, new_sid()):
        with pytest.raises(PointNotFound):
            repository.tombstone(sid)
    point = lab.backup(repository, {0: lab.block(0)}, GEOMETRY)
    lab.flip(tmp_path / "repository" / "points" / point.sid, 20)
    with pytest.raises(ObjectDamaged):
        repository.tombstone(point.sid)
    repository.close()
