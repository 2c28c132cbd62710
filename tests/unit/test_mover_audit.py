"""Drawing the blocks of an audit: all of those that are left unread, with the same chance, within bounds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.errors import UsageError
from holdfast_agent.model.change import MOST_AUDITED_BLOCKS, AuditRate, ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry, coalesced
from holdfast_agent.mover.audit import draw
from holdfast_agent.mover.course import by_bitmap, check_extents
from holdfast_agent.mover.plan import Fate, plan
from holdfast_agent.wire.specs import BackupOrder
from lab.touched import touched_blocks

LOG2 = 16
BLOCK = 1 << LOG2
ALL = AuditRate(percent=100)

extents_of = st.lists(st.builds(Extent, st.integers(0, 60 * BLOCK), st.integers(0, 20 * BLOCK)), max_size=8).map(sorted)


def order(blocks: int, extents: list[Extent], mode: ChangeMode = ChangeMode.CBT) -> BackupOrder:
    geometry = Geometry(blocks * BLOCK, LOG2)
    return BackupOrder(geometry=geometry, disks=(), mode=mode, base_geometry=geometry, extents=tuple(extents))


def unread(what: BackupOrder, lost: tuple[tuple[int, int], ...]) -> list[int]:
    trusted = Fate.KEEP if what.mode is ChangeMode.CBT else Fate.HOLE
    parts = plan(what, (), lost)
    return [block for part in parts if part.fate is trusted for block in range(part.first, part.end)]


@given(
    extents=extents_of,
    blocks=st.integers(0, 60),
    lost=st.booleans(),
    number=st.integers(0, 70),
    mode=st.sampled_from([ChangeMode.CBT, ChangeMode.ALLOCATION]),
    seed=st.integers(),
)
def test_a_sample_is_of_unread_blocks_only_ascending_and_of_the_size_asked_for(
    extents: list[Extent], blocks: int, lost: bool, number: int, mode: ChangeMode, seed: int
) -> None:
    what, runs = order(blocks, extents, mode), ((3, 2),) if lost and blocks > 5 else ()
    there = unread(what, runs)
    drawn = list(draw(what, runs, AuditRate(number), random.Random(seed)))
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(there)
    assert len(drawn) == min(number, len(there))
    assert list(draw(what, runs, ALL, random.Random(seed))) == there


disk_extents = st.lists(
    st.tuples(st.integers(0, 3 * BLOCK), st.integers(1, 6 * BLOCK), st.booleans()), max_size=10
)  # gap before, length, whether it is data


class Changes:
    """A disk that tells its changes."""

    url = "changes"

    def __init__(self, size: int, told: list[tuple[int, int, bool]]) -> None:
        self.size_bytes = size
        self.told: list[DiskExtent] = []
        place = 0
        for gap, length, data in told:
            start = place + gap
            place = start + length
            if place <= size:
                self.told.append(DiskExtent(start, length, data))

    def extents(self) -> Iterator[DiskExtent]:
        return iter(())

    def changed_extents(self) -> Iterator[DiskExtent]:
        return iter(self.told)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("nothing is read for a plan")

    def close(self) -> None:
        pass


@given(told=disk_extents, size=st.integers(1, 40 * BLOCK), lost=st.booleans())
def test_a_bitmap_names_each_touched_block_and_only_whole_zero_blocks_are_not_read(
    told: list[tuple[int, int, bool]], size: int, lost: bool
) -> None:
    disk, geometry = Changes(size, told), Geometry(size, LOG2)
    what = BackupOrder(geometry=geometry, disks=(), mode=ChangeMode.CBT, base_geometry=geometry)
    course = by_bitmap(what, disk)
    assert course.reason == ""
    runs = ((2, 1),) if lost and geometry.blocks > 2 else ()
    parts = list(plan(course.order, (), runs))
    fates = {block: part.fate for part in parts for block in range(part.first, part.end)}
    assert sum(part.end - part.first for part in parts) == len(fates) == geometry.blocks
    for block, fate in fates.items():
        extent = geometry.extent(block)
        touching = [each for each in disk.told if each.start < extent.end and each.start + each.length > extent.start]
        zeros = sum(
            min(each.start + each.length, extent.end) - max(each.start, extent.start)
            for each in touching
            if not each.data
        )
        if fate is Fate.HOLE:
            assert zeros == extent.length
        elif fate is Fate.KEEP:
            assert not touching and (block, 1) not in runs
        else:
            assert touching or (block, 1) in runs
    drawn = draw(course.order, runs, ALL, random.Random(0))
    assert list(drawn) == [block for block, fate in fates.items() if fate is Fate.KEEP]


def test_every_unread_block_is_drawn_with_the_same_chance() -> None:
    what = order(400, [Extent(0, BLOCK), Extent(17 * BLOCK, 90 * BLOCK), Extent(300 * BLOCK + 5, 3)])
    there, chance = unread(what, ()), random.Random(4)
    rounds, size = 6000, 20
    seen = Counter(block for _ in range(rounds) for block in draw(what, (), AuditRate(size), chance))
    assert seen.keys() == set(there)
    expected = rounds * size / len(there)
    # Chi squared with 308 - 1 degrees of freedom (a little less varied, as nothing is drawn twice): 5 sigmas and more.
    chi_squared = sum((seen[block] - expected) ** 2 / expected for block in there)
    degrees = len(there) - 1
    assert abs(chi_squared / (1 - size / len(there)) - degrees) < 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize(
    ("rate", "total", "size"),
    [
        (AuditRate(), 1 << 20, 64),
        (AuditRate(), 10, 10),
        (AuditRate(0), 10, 0),
        (AuditRate(percent=5), 1000, 50),
        (AuditRate(percent=0.1), 10, 1),
        (AuditRate(percent=0.1), 0, 0),
        (AuditRate(percent=50), 1 << 30, MOST_AUDITED_BLOCKS),
        (AuditRate(percent=100), 1 << 30, 1 << 30),
    ],
)
def test_the_size_of_a_sample(rate: AuditRate, total: int, size: int) -> None:
    assert rate.of(total) == size
    assert rate.off == (rate == AuditRate(0))


def test_drawing_from_a_disk_without_end_costs_by_the_sample() -> None:
    whole = Geometry(1 << 60, 20)
    what = BackupOrder(geometry=whole, disks=(), mode=ChangeMode.CBT, extents=(Extent(5 << 20, 1),))
    assert len(list(draw(what, (), AuditRate(1000), random.Random(1)))) == 1000
    first = draw(what, (), ALL, random.Random(1))
    assert [next(first) for _ in range(7)] == [0, 1, 2, 3, 4, 6, 7]


@given(extents=extents_of, blocks=st.integers(0, 60), most=st.integers(1, 5))
def test_coalesced_extents_touch_what_was_given_and_are_few(extents: list[Extent], blocks: int, most: int) -> None:
    geometry = Geometry(max(0, blocks * BLOCK - 7), LOG2)
    exact = coalesced(extents, geometry)
    touched = touched_blocks(geometry, extents)
    assert touched_blocks(geometry, exact) == touched
    assert all(before.end < after.start for before, after in pairwise(exact))
    few = coalesced(extents, geometry, most)
    assert len(few) <= most
    assert touched_blocks(geometry, few) >= touched
    assert not few or (few[0].start, few[-1].end) == (exact[0].start, exact[-1].end)


def test_the_narrowest_gaps_are_closed_first() -> None:
    geometry = Geometry(100 * BLOCK, LOG2)
    apart = [Extent(place * BLOCK, 1) for place in (0, 2, 50, 52, 90)]
    found = coalesced(apart, geometry, 3)
    assert [(each.start // BLOCK, each.length // BLOCK) for each in found] == [(0, 3), (50, 3), (90, 1)]


def test_an_order_that_would_pass_blocks_over_is_refused() -> None:
    with pytest.raises(UsageError, match="do not ascend"):
        check_extents(order(60, [Extent(9 * BLOCK, 1), Extent(3 * BLOCK, 1)]))
