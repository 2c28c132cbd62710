"""Kill before every system call of protecting, pruning, undoing and retiring, with and without loss of power."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.errors import UndoWindowOver
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid
from holdfast_agent.repository.repository import Repository
from lab import repositories as lab
from lab.faults import FaultySystem
from lab.mortal import open_mortal, told_before_death

GEOMETRY = Geometry(2 * lab.BLOCK, lab.LOG2)
BLOCKS = {0: lab.block("kept")}
Seen = tuple[bool, bool, bool]
STEPS: list[tuple[Callable[[Repository, Sid], object], Seen]] = [
    (lambda repository, sid: repository.retain(sid, 5.0, hold=True), (True, False, True)),
    (lambda repository, sid: repository.retain(sid, hold=False), (False, False, True)),
    (lambda repository, sid: repository.tombstone(sid, 0.0, "first"), (False, True, True)),
    (lambda repository, sid: repository.undo_tombstone(sid), (False, False, True)),
    (lambda repository, sid: repository.tombstone(sid, 0.0, "second"), (False, True, True)),
    (lambda repository, sid: repository.retire(), (False, True, False)),
]
"""What is done to a point, and what is seen of it then: (held, hidden, a root)."""
BEFORE: Seen = (False, False, True)


def seen(repository: Repository, sid: Sid) -> Seen:
    hidden = repository.tombstones.hides(sid)
    assert repository.tombstones.hidden() == ({sid} if hidden else set())
    return repository.retentions.of(sid).hold, hidden, sid in repository.roots()


def run(repository: Repository, sid: Sid, acknowledge: int | None = None) -> None:
    for action, _ in STEPS:
        action(repository, sid)
        if acknowledge is not None:
            os.write(acknowledge, b".")


def fresh(folder: Path) -> Sid:
    folder.mkdir()
    (folder / "stash").mkdir()
    lab.create(folder / "repository")
    repository = lab.open_at(folder)
    sid = lab.backup(repository, BLOCKS, GEOMETRY).sid
    repository.close()
    return sid


def run_and_die(folder: Path, sid: Sid, at: int, lose: bool) -> int:
    """Run in a child that is killed before its ``at``-th call. How many steps it acknowledged."""
    return told_before_death(lambda told: run(open_mortal(folder, at, lose), sid, told))


@pytest.mark.parametrize("lose", [False, True], ids=["killed", "power-lost"])
def test_every_prefix_is_the_step_before_or_the_step_after(tmp_path: Path, lose: bool) -> None:
    sid = fresh(tmp_path / "count")
    system = FaultySystem()
    repository = lab.open_at(tmp_path / "count", system)
    run(repository, sid)
    repository.close()
    assert system.calls > 40
    states = [BEFORE, *(state for _, state in STEPS)]
    for at in range(1, system.calls + 1):
        folder = tmp_path / f"at{at}"
        sid = fresh(folder)
        acknowledged = run_and_die(folder, sid, at, lose)
        repository = lab.open_at(folder)
        repository.recover()
        state = seen(repository, sid)
        assert state in states[acknowledged : acknowledged + 2], f"killed before call {at}"
        finish(repository, sid, state)
        repository.close()


def finish(repository: Repository, sid: Sid, state: Seen) -> None:
    """Whatever was cut off can be done again, or undone as long as nobody retired it."""
    held, hidden, root = state
    if hidden and root:
        assert repository.undo_tombstone(sid)
    elif hidden:
        with pytest.raises(UndoWindowOver):
            repository.undo_tombstone(sid)
        return
    assert lab.restore(repository, repository.point(sid)) == BLOCKS
    if held:
        repository.retain(sid, hold=False)
    assert repository.tombstone(sid)
    assert repository.retire() == [sid]
    assert seen(repository, sid) == (False, True, False)
