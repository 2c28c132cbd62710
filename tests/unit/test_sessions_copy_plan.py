"""What a copy brings over: only what is missing, never what was pruned there, each built on what both have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import PointNotFound
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Origin, Point, PointEntry
from holdfast_agent.sealing.keys import PUBLIC, RepositoryKeys
from holdfast_agent.sealing.roots import seal_point
from holdfast_agent.wire import messages as m
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.point_rows import row_of_point
from holdfast_manager.catalog.values import PointState, RepositoryEntry
from holdfast_manager.retention.policy import RetentionPolicy
from holdfast_manager.sessions.copy_plan import CopyPlan, Pair, best_base, choose_transfer, plan_copy
from holdfast_manager.sessions.requests import CopyRequest

NEAR, FAR = "11" * 16, "22" * 16
DAY_S = 86400.0
ALL = CopyRequest(origin="near", repository="far")
DISK = DiskPoint("disk0", "root", 1 << 30, 20, "33" * 32, ChangeMode.FULL, "a test", change_id="7")


def sid(number: int) -> Sid:
    return Sid(f"{number:032x}")


def point(number: int, created: float, vm: str = "web", repository: str = NEAR, origin: Origin | None = None) -> Point:
    return Point(sid(number), repository, created, "job", "lab", vm, vm, (DISK,), "00" * 32, origin=origin)


def copy_of(original: Point, number: int) -> Point:
    return msgspec.structs.replace(
        original, sid=sid(number), repository_id=FAR, origin=Origin(original.repository_id, original.sid)
    )


class Shelf:
    """The points of a repository as its agent tells them, two to a page."""

    def __init__(self, repository_id: str, shown: Sequence[Point], hidden: Sequence[Point] = ()) -> None:
        keys = RepositoryKeys.derive(PUBLIC, repository_id)
        self.shown = sorted((seal_point(each, keys) for each in shown), key=lambda entry: entry.sid)
        self.hidden = sorted((seal_point(each, keys) for each in hidden), key=lambda entry: entry.sid)

    def __call__(self, request: m.Request, kind: type[Any], /) -> Any:
        assert isinstance(request, m.ListPoints)
        rest = [entry for entry in (self.hidden if request.hidden else self.shown) if entry.sid > request.after]
        return m.PointList(points=tuple(rest[:2]), more=len(rest) > 2)


@pytest.fixture
def houses(stocked: Catalog) -> Catalog:
    for name, repository_id in (("near", NEAR), ("far", FAR)):
        entry = RepositoryEntry(
            name=name, agent="a", path=f"/{name}", repository_id=repository_id, encrypted=False
        )  # fmt: skip
        stocked.repositories.add(entry)
    return stocked


def planned(
    catalog: Catalog, request: CopyRequest, near: Sequence[Point], far: Sequence[Point] = (), **how: Any
) -> CopyPlan:
    return plan_copy(catalog, request, {"near": Shelf(NEAR, near)}, {"far": Shelf(FAR, far, how.get("hidden", ()))})


def numbers(plan: CopyPlan) -> list[list[int]]:
    return [[int(each.sid, 16) for each in chain] for chain in plan.chains]


def test_what_is_missing_oldest_first_by_vm(houses: Catalog) -> None:
    near = [point(9, 1.0), point(8, 2.0), point(7, 3.0), point(6, 1.5, "db")]
    assert numbers(planned(houses, ALL, near)) == [[6], [9, 8, 7]]
    plan = planned(houses, ALL, near, [copy_of(near[1], 20)])
    assert (numbers(plan), plan.present) == ([[6], [9, 7]], 1)


def test_a_copy_that_was_pruned_is_not_made_again_unless_it_is_named(houses: Catalog) -> None:
    near = [point(1, 1.0), point(2, 2.0)]
    plan = planned(houses, ALL, near, hidden=[copy_of(near[0], 20)])
    assert (numbers(plan), plan.pruned) == ([[2]], 1)
    named = msgspec.structs.replace(ALL, points=(sid(1),))
    assert numbers(planned(houses, named, near, hidden=[copy_of(near[0], 20)])) == [[1]]


def test_copies_of_copies_and_back_are_the_same_point(houses: Catalog) -> None:
    """However a point came there: it is told by its origin, not by its sid."""
    first = Origin("44" * 16, sid(99))
    near = [point(1, 1.0, origin=first), point(2, 2.0, origin=Origin(FAR, sid(30))), point(3, 3.0)]
    far = [point(20, 1.0, repository=FAR, origin=first), point(30, 2.0, repository=FAR)]
    assert numbers(planned(houses, ALL, near, far)) == [[3]]


def test_suspects_wait_and_strangers_are_refused(houses: Catalog) -> None:
    near = [point(1, 1.0), point(2, 2.0)]
    for each in near:
        houses.points.add(row_of_point("near", each))
    houses.points.set_state(sid(1), PointState.SUSPECT)
    plan = planned(houses, ALL, near)
    assert (numbers(plan), [each.sid for each in plan.suspect]) == ([[2]], [sid(1)])
    named = msgspec.structs.replace(ALL, points=(sid(1),))
    assert numbers(planned(houses, named, near)) == [[1]]
    assert numbers(planned(houses, msgspec.structs.replace(ALL, suspect=True), near)) == [[1, 2]]
    with pytest.raises(PointNotFound):
        planned(houses, msgspec.structs.replace(ALL, points=(sid(5),)), near)

    shelf = Shelf(NEAR, near)
    shelf.shown[0] = PointEntry(shelf.shown[0].sid, shelf.shown[0].body, bytes(32))
    plan = plan_copy(houses, ALL, {"near": shelf}, {"far": Shelf(FAR, ())})
    assert (numbers(plan), plan.refused) == ([[2]], (sid(1),))


def test_what_the_copy_jobs_retention_would_prune_at_once_is_not_copied(houses: Catalog) -> None:
    """Of a week of points a job that keeps two needs two, with those that it has; else each run would copy the rest."""
    near = [point(number, number * DAY_S) for number in range(1, 8)]
    filed = CopyRequest(origin="near", repository="far", job="copies")
    two = RetentionPolicy(days=0, count=2, minimum=1)

    def plan(*far: Point) -> CopyPlan:
        return plan_copy(houses, filed, {"near": Shelf(NEAR, near)}, {"far": Shelf(FAR, far)}, two)

    assert (numbers(plan()), plan().unkept) == ([[6, 7]], 5)
    newest = msgspec.structs.replace(copy_of(near[6], 27), job="copies")
    assert numbers(plan(newest)) == [[6]]
    older = msgspec.structs.replace(copy_of(near[5], 26), job="copies")
    assert (numbers(plan(newest, older)), plan(newest, older).unkept) == ([], 5)
    assert numbers(plan(copy_of(near[6], 27), older)) == [[5]], "another job's copies are no business of this one"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"exclude": ("d*",), "jobs": ("j?b",)}, [[1, 2, 3]]),
        ({"jobs": ("other",)}, []),
        ({"vms": ("w*",)}, [[1, 2, 3]]),
        ({"vms": ("db",)}, [[4, 5]]),
        ({"vms": ("nothing",)}, []),
        ({"since": 2.0}, [[5], [2, 3]]),
        ({"latest": 1}, [[5], [3]]),
        ({"latest": 2, "since": 3.0, "vms": ("web",)}, [[3]]),
    ],
)
def test_choosing(houses: Catalog, choice: dict[str, Any], expected: list[list[int]]) -> None:
    near = [point(1, 1.0), point(2, 2.0), point(3, 3.0), point(4, 1.0, "db"), point(5, 2.0, "db")]
    assert numbers(planned(houses, msgspec.structs.replace(ALL, **choice), near)) == expected


def test_the_best_base_is_the_last_that_both_have_before_it() -> None:
    near = [point(number, float(number)) for number in range(1, 5)]
    both = [
        Pair(copy_of(near[0], 21), near[0]),
        Pair(copy_of(near[1], 22), near[1]),
        Pair(copy_of(near[3], 24), near[3]),
    ]
    alone = Pair(copy_of(near[2], 23), None)
    bases = [both[0], both[1], alone, both[2]]
    nobody: frozenset[Sid] = frozenset()
    assert best_base(bases, point(9, 3.5), nobody) == both[1]
    assert best_base(bases, point(9, 3.5), frozenset({sid(22)})) == both[0]
    assert best_base(bases, point(9, 0.5), nobody) == both[0], "none before it: the first after"
    assert best_base([alone], point(9, 3.5), nobody) == alone
    assert best_base([], point(9, 3.5), nobody) is None


def test_a_disk_inherits_only_what_both_repositories_have() -> None:
    """Else it is compared with what the target has, or read whole."""
    before, now = point(1, 1.0), point(2, 2.0)
    pair = Pair(copy_of(before, 21), before)
    resized = msgspec.structs.replace(DISK, size_bytes=2 << 30)
    coarser = msgspec.structs.replace(DISK, block_log2=22)
    other = msgspec.structs.replace(DISK, disk_id="disk1")

    def mode(disk: DiskPoint, base: Pair | None) -> ChangeMode:
        transfer = choose_transfer(now, disk, base)
        order = transfer.order()
        inherits = order.mode in (ChangeMode.CBT, ChangeMode.DIGEST)
        assert (order.base_root is not None, order.base_geometry is not None) == (inherits, inherits)
        assert order.origin is not None
        assert (order.origin.since is not None) == (order.mode is ChangeMode.CBT)
        return order.mode

    assert mode(DISK, pair) is mode(resized, pair) is ChangeMode.CBT
    assert mode(DISK, Pair(pair.copy, None)) is ChangeMode.DIGEST
    assert mode(DISK, Pair(msgspec.structs.replace(pair.copy, disks=(resized,)), before)) is ChangeMode.DIGEST
    assert mode(coarser, pair) is mode(other, pair) is mode(DISK, None) is ChangeMode.ALLOCATION
