"""Tombstones and retention: hidden, given back, given up for ever; and what nobody may prune."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_agent.errors import (
    ObjectDamaged,
    PointHeld,
    PointNotFound,
    PointRetained,
    UndoWindowOver,
)
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.repository.file_writing import Buffer
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.retention import Retention, Retentions
from holdfast_agent.repository.store import FileStore
from holdfast_agent.repository.tombstones import Tombstones
from holdfast_agent.repository.verify import verify
from lab import repositories as lab

GEOMETRY = Geometry(2 * lab.BLOCK, lab.LOG2)
DAY_S = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: Clock) -> Iterator[Repository]:
    lab.create(tmp_path / "repository")
    opened = Repository.open(tmp_path / "repository", tmp_path / "cache", clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def point(repository: Repository) -> Sid:
    return lab.backup(repository, {0: lab.block(0)}, GEOMETRY).sid


def shown(repository: Repository) -> list[Sid]:
    return [entry.sid for entry in repository.points()]


def test_a_tombstone_hides_a_point_and_leaves_it_where_it_is(repository: Repository, point: Sid) -> None:
    second = lab.backup(repository, {0: lab.block(1)}, GEOMETRY)
    assert repository.tombstone(point)
    assert not repository.tombstone(point), "it was hidden before"
    assert shown(repository) == [second.sid]
    assert repository.committed(point) is not None
    with pytest.raises(PointNotFound):
        repository.point(point)


def test_only_what_was_committed_can_be_hidden(repository: Repository, point: Sid, tmp_path: Path) -> None:
    fenced = new_sid()
    repository.begin_session(fenced).close()
    repository.abort(fenced)
    for sid in (fenced, new_sid()):
        with pytest.raises(PointNotFound):
            repository.tombstone(sid)
        with pytest.raises(PointNotFound):
            repository.undo_tombstone(sid)
        with pytest.raises(PointNotFound):
            repository.retain(sid, hold=True)
    lab.flip(tmp_path / "repository" / "points" / point, 20)
    with pytest.raises(ObjectDamaged):
        repository.tombstone(point)


def test_a_point_is_a_root_until_its_window_is_over_and_a_collector_retires_it(
    repository: Repository, point: Sid, clock: Clock
) -> None:
    repository.tombstone(point, window_s=3 * DAY_S, reason="older than 7 days")
    stone = repository.tombstones.of(point)
    assert stone is not None
    assert (stone.not_before, stone.reason) == (clock.now + 3 * DAY_S, "older than 7 days")
    assert repository.retire() == []
    assert repository.roots() == [point]
    clock.now += 3 * DAY_S
    assert repository.roots() == [point], "time alone takes nothing away"
    assert repository.retire() == [point]
    assert repository.retire() == []
    assert repository.roots() == []
    with pytest.raises(UndoWindowOver):
        repository.undo_tombstone(point)
    assert shown(repository) == []


def test_undone_in_time_the_point_is_as_before_and_may_be_pruned_again(
    repository: Repository, point: Sid, clock: Clock
) -> None:
    assert not repository.undo_tombstone(point), "nothing to undo"
    for _ in range(3):
        repository.tombstone(point, window_s=DAY_S)
        clock.now += 2 * DAY_S  # the window is over, but nobody has acted on it
        assert repository.undo_tombstone(point)
        assert not repository.undo_tombstone(point)
        assert repository.retire() == []
        assert shown(repository) == repository.roots() == [point]
    repository.tombstone(point)
    assert repository.retire() == [point]
    assert repository.roots() == []


def test_an_undo_that_was_cut_off_keeps_the_data_and_is_completed(repository: Repository, point: Sid) -> None:
    repository.tombstone(point)
    repository.undo_tombstone(point)
    repository.store.remove(f"tombstones/{point}-1.undone")
    assert shown(repository) == []
    assert repository.retire() == []
    assert repository.roots() == [point]
    assert repository.undo_tombstone(point)
    assert shown(repository) == [point]
    repository.store.remove(f"tombstones/{point}-1.undone")
    assert repository.tombstone(point)
    assert repository.tombstones.hidden() == {point}
    assert repository.retire() == [point]


@pytest.mark.parametrize("ending", ["", ".end"])
def test_what_cannot_be_read_sets_nothing_free(repository: Repository, point: Sid, tmp_path: Path, ending: str) -> None:
    repository.tombstone(point)
    if ending:
        repository.retire()
    lab.flip(tmp_path / "repository" / "tombstones" / f"{point}-1{ending}", 20)
    assert repository.retire() == []
    assert repository.roots() == [point]
    assert shown(repository) == []


def test_other_files_among_the_tombstones_hide_nothing(repository: Repository, point: Sid, tmp_path: Path) -> None:
    for name in (".nfs0001", point, f"{point}-0", f"{point}-1.other"):
        (tmp_path / "repository" / "tombstones" / name).touch()
    assert shown(repository) == repository.roots() == [point]


def test_a_retained_point_cannot_be_pruned_before_its_time(repository: Repository, point: Sid, clock: Clock) -> None:
    until = clock.now + DAY_S
    assert repository.retain(point, until) == Retention(until)
    assert repository.retain(point, until - 1) == Retention(until), "never shortened"
    with pytest.raises(PointRetained, match="must be kept until 2027-01-16"):
        repository.tombstone(point)
    assert repository.retain(point, until + 60) == Retention(until + 60)
    clock.now = until
    with pytest.raises(PointRetained):
        repository.tombstone(point)
    clock.now = until + 60
    assert repository.tombstone(point)


def test_a_hold_lasts_until_it_is_lifted(repository: Repository, point: Sid, clock: Clock) -> None:
    assert repository.retain(point, hold=True) == Retention(hold=True)
    with pytest.raises(PointHeld):
        repository.tombstone(point)
    assert repository.retain(point, clock.now + 9) == Retention(clock.now + 9, hold=True)
    assert repository.retain(point, hold=False) == Retention(clock.now + 9)
    assert repository.retentions.of_many([point, new_sid()]) == {point: Retention(clock.now + 9)}
    with pytest.raises(PointRetained):
        repository.tombstone(point)


def test_a_hidden_point_is_not_protected_before_it_is_given_back(repository: Repository, point: Sid) -> None:
    repository.tombstone(point)
    with pytest.raises(PointNotFound):
        repository.retain(point, hold=True)


def test_a_point_that_was_retained_beside_its_tombstone_is_not_retired(
    repository: Repository, point: Sid, clock: Clock
) -> None:
    repository.tombstone(point)
    repository.retentions.set(point, clock.now + 5)  # what a race of both may leave
    assert repository.retire() == []
    clock.now += 5
    assert repository.retire() == [point]


def test_a_damaged_retention_protects(repository: Repository, point: Sid, tmp_path: Path) -> None:
    repository.retain(point, 1.0)
    lab.flip(tmp_path / "repository" / "retention" / f"{point}-1", 20)
    with pytest.raises(ObjectDamaged):
        repository.tombstone(point)
    assert repository.retentions.keeps(point)
    assert repository.retentions.of_many([point]) == {point: Retention(hold=True)}


def test_verification_names_what_cannot_be_read(repository: Repository, point: Sid, tmp_path: Path) -> None:
    other = lab.backup(repository, {0: lab.block(1)}, GEOMETRY).sid
    repository.retain(point, 1.0)
    repository.tombstone(other)
    repository.retire()
    assert verify(repository, 0).ok
    damaged = [f"retention/{point}-1", f"tombstones/{other}-1", f"tombstones/{other}-1.end"]
    for name in damaged:
        lab.flip(tmp_path / "repository" / name, 20)
    assert sorted(finding.object for finding in verify(repository, 0).findings) == damaged


STEPS = st.lists(
    st.tuples(st.sampled_from(["place", "undo", "retire", "retain", "hold", "lift", "pass"]), st.integers(0, 4)),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_order_of_pruning_and_undoing_follows_the_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("r")
    for folder in ("tombstones", "retention", "tmp"):
        (root / folder).mkdir()
    clock = Clock()
    store = FileStore(root)
    stones, retentions = Tombstones(store, clock), Retentions(store, clock)
    sid = new_sid()
    hidden, retired, over, until, hold = False, False, math.inf, 0.0, False
    for step, amount in steps:
        match step:
            case "place":
                assert stones.place(sid, amount, "") is not hidden
                over = over if hidden else clock.now + amount
                hidden = True
            case "undo" if retired:
                with pytest.raises(UndoWindowOver):
                    stones.undo(sid)
            case "undo":
                assert stones.undo(sid) is hidden
                hidden = False
            case "retire":
                free = hidden and not retired and clock.now >= over and clock.now >= until and not hold
                assert stones.retire(retentions.keeps) == ([sid] if free else [])
                retired = retired or free
            case "retain":
                until = max(until, clock.now + amount)
                assert retentions.set(sid, clock.now + amount) == Retention(until, hold)
            case "hold" | "lift":
                hold = step == "hold"
                assert retentions.set(sid, hold=hold) == Retention(until, hold)
            case "pass":
                clock.now += amount
        assert (stones.hides(sid), stones.hidden()) == (hidden, {sid} if hidden else set())
        assert stones.retired() == ({sid} if retired else set())


class Racing(FileStore):
    """Lets somebody else in just before the object that ends a round is created."""

    def __init__(self, root: Path, other: Callable[[], object]) -> None:
        super().__init__(root)
        self._other: Callable[[], object] | None = other

    def create(self, name: str, data: Sequence[Buffer]) -> None:
        other = self._other
        if name.endswith(".end") and other is not None:
            self._other = None
            other()
        super().create(name, data)


def test_undoing_and_retiring_at_once_have_one_winner(
    repository: Repository, point: Sid, clock: Clock, tmp_path: Path
) -> None:
    root = tmp_path / "repository"
    repository.tombstone(point)
    late_collector = Tombstones(Racing(root, lambda: repository.undo_tombstone(point)), clock)
    assert late_collector.retire(lambda sid: False) == []
    assert shown(repository) == repository.roots() == [point]
    repository.tombstone(point)
    late_undo = Tombstones(Racing(root, repository.retire), clock)
    with pytest.raises(UndoWindowOver):
        late_undo.undo(point)
    assert repository.roots() == shown(repository) == []
