"""The pure parts of movers: plans, pages, stages, limits, messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.errors import MalformedMessage
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import HOLE, ID_BYTES, BlockId
from holdfast_agent.mover.blocks import BlockWork
from holdfast_agent.mover.conversation import (
    PAGE_BLOCKS,
    Done,
    Ids,
    Offer,
    count_blocks,
    decode,
    encode,
    runs_of,
    split_ids,
)
from holdfast_agent.mover.pages import IdMap, IdPage, PageCutter
from holdfast_agent.mover.plan import Fate, Part, leave_out, plan
from holdfast_agent.mover.stages import Pressure, StageClock, Throttle
from holdfast_agent.mover.workers import Workers
from holdfast_agent.wire.specs import BackupOrder
from lab.repositories import DATA_KEYS
from lab.touched import touched_blocks

LOG2 = 16
BLOCK = 1 << LOG2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def order(
    mode: ChangeMode, size: int, extents: tuple[Extent, ...] | None = None, old: int | None = None
) -> BackupOrder:
    base = Geometry(old, LOG2) if old is not None else None
    return BackupOrder(geometry=Geometry(size, LOG2), disks=(), mode=mode, base_geometry=base, extents=extents)


extent_lists = st.lists(st.builds(Extent, st.integers(0, 60 * BLOCK), st.integers(0, 20 * BLOCK)), max_size=8).map(
    sorted
)


@given(extents=extent_lists, size=st.integers(0, 50 * BLOCK), mode=st.sampled_from(list(ChangeMode)))
def test_a_plan_covers_each_block_once_and_reads_all_that_was_named(
    extents: list[Extent], size: int, mode: ChangeMode
) -> None:
    given_extents = tuple(extents) if mode is ChangeMode.CBT else None
    parts = list(plan(order(mode, size, given_extents), extents, ()))
    geometry = Geometry(size, LOG2)
    assert [block for part in parts for block in range(part.first, part.end)] == list(range(geometry.blocks))
    read = {block for part in parts if part.fate is Fate.READ for block in range(part.first, part.end)}
    expected = set(range(geometry.blocks)) if mode is ChangeMode.FULL else touched_blocks(geometry, extents)
    assert read == expected
    others = {part.fate for part in parts if part.fate is not Fate.READ}
    assert others <= {Fate.KEEP if mode is ChangeMode.CBT else Fate.HOLE}


@given(
    parts=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([Fate.READ, Fate.HOLE])), max_size=12),
    gaps=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=8),
)
def test_unused_blocks_are_not_read_and_all_others_keep_their_fate(
    parts: list[tuple[int, Fate]], gaps: list[tuple[int, int]]
) -> None:
    fates = [fate for count, fate in parts for _ in range(count)]
    planned, unused, first = [], [], 0
    for count, fate in parts:
        planned.append(Part(first, first + count, fate))
        first += count
    following = 0
    for gap, count in gaps:
        unused.append((following + gap, count))
        following += gap + count
    none_needs = {block for start, count in unused for block in range(start, start + count)}
    expected = [Fate.UNUSED if fate is Fate.READ and block in none_needs else fate for block, fate in enumerate(fates)]
    found = list(leave_out(planned, unused))
    assert [block for part in found for block in range(part.first, part.end)] == list(range(len(fates)))
    assert [part.fate for part in found for _ in range(part.first, part.end)] == expected


@pytest.mark.parametrize(
    ("old", "new", "read"),
    [(10, 10, set()), (10, 10.5, {10}), (10.5, 12, {10, 11}), (12, 10.5, {10}), (12, 10, {9})],
)
def test_cbt_reads_where_a_resized_disk_differs(old: float, new: float, read: set[int]) -> None:
    parts = plan(order(ChangeMode.CBT, int(new * BLOCK), (), int(old * BLOCK)), (), [(3, 2)])
    found = {block for part in parts if part.fate is Fate.READ for block in range(part.first, part.end)}
    assert found == read | {3, 4}


blocks = st.dictionaries(
    st.integers(0, 3 * PAGE_BLOCKS - 1), st.binary(min_size=ID_BYTES, max_size=ID_BYTES), max_size=30
)


@given(ids=blocks)
def test_pages_carry_every_id_to_its_place(ids: dict[int, bytes]) -> None:
    geometry = Geometry(3 * PAGE_BLOCKS * BLOCK - 5, LOG2)
    tree = IdMap()
    for block, block_id in ids.items():
        tree[block] = BlockId(block_id)
    everything = list(tree.ids(geometry.blocks))
    assert {n: i for n, i in enumerate(everything) if i != HOLE} == {n: i for n, i in ids.items() if i != HOLE}
    cutter = PageCutter(geometry.blocks, lambda first: iter(everything[first:]))
    for first in (0, PAGE_BLOCKS, 2 * PAGE_BLOCKS, PAGE_BLOCKS):
        message, payload = cutter.page(first)
        page = IdPage.receive(message, memoryview(b"".join(payload)), geometry)
        there = [n for n in range(first, first + PAGE_BLOCKS) if everything[n] != HOLE]
        assert list(page.data_blocks(0, geometry.blocks)) == there
        assert all(page[n] == everything[n] for n in [*there, first, first + PAGE_BLOCKS - 1])


@pytest.mark.parametrize(
    ("message", "ids"),
    [
        (Ids(0, ((5, 2),)), 1),
        (Ids(1, ()), 0),
        (Ids(0, ((PAGE_BLOCKS - 1, 2),)), 2),
        (Ids(PAGE_BLOCKS, ((5, 1),)), 1),
        (Ids(0, ((5, 2), (6, 1))), 3),
        (Ids(0, ((5, 0),)), 0),
    ],
)
def test_a_page_that_contradicts_itself_is_refused(message: Ids, ids: int) -> None:
    with pytest.raises(MalformedMessage):
        IdPage.receive(message, memoryview(bytes(ids * ID_BYTES)), Geometry(2 * PAGE_BLOCKS * BLOCK, LOG2))


@pytest.mark.parametrize("runs", [((-1, 2),), ((0, 11),), ((3, 2), (4, 1)), ((3, -1),)])
def test_runs_outside_of_the_disk_are_refused(runs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(MalformedMessage):
        count_blocks(runs, Geometry(10 * BLOCK, LOG2))


@given(st.sets(st.integers(0, 50)))
def test_runs_say_the_same_blocks(numbers: set[int]) -> None:
    runs = runs_of(sorted(numbers))
    assert {block for first, count in runs for block in range(first, first + count)} == numbers


@pytest.mark.parametrize(
    "body", [b"", b"\x00", encode(Done())[:-1], encode(Offer(1, ((1, 2),))) + b"x", b"\x91\xa3Foo"]
)
def test_garbled_messages_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(body)


def test_the_number_of_ids_must_be_that_of_the_message() -> None:
    with pytest.raises(MalformedMessage):
        split_ids(bytes(ID_BYTES), 2, 10)
    with pytest.raises(MalformedMessage):
        split_ids(bytes(11 * ID_BYTES), 11, 10)


def test_a_stage_is_busy_while_at_least_one_thread_is_inside() -> None:
    clock = Clock()
    stage = StageClock(clock)
    with stage:
        clock.now += 1
        with stage:
            clock.now += 2
        assert stage.busy_s == 3
        clock.now += 4
    clock.now += 100
    assert stage.busy_s == 7


def test_pressure_counts_while_something_is_held_back() -> None:
    clock = Clock()
    pressure = Pressure(clock)
    for held in (False, True, True, False, False):
        pressure.tell(held)
        clock.now += 1
    assert pressure.held_s == 2


def test_throttling_is_counted_by_the_limit_that_asks_for_it() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for by in (None, "wan", "wan", "night", None, "wan", None):
        throttle.tell(by)
        clock.now += 1
    assert throttle.by_limit == {"wan": 3, "night": 1}
    assert throttle.held_s == 4


def test_workers_hand_results_and_errors_to_the_main_thread_and_run_a_last_task() -> None:
    workers = Workers(1, "test")
    seen: list[int] = []
    workers.submit(seen.append, int, "7")
    workers.submit(seen.append, int, "no number")
    with pytest.raises(ValueError, match="no number"):
        while workers.busy:
            workers.take()
    assert seen == [7]
    assert workers.close(5, lambda: seen.append(8))
    assert seen == [7, 8]


class _Letters:
    """A disk of one block of each letter."""

    url = "letters"
    size_bytes = 8 * BLOCK

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = bytes([ord("a") + offset // BLOCK]) * len(buffer)

    def extents(self) -> Iterator[DiskExtent]:
        yield DiskExtent(0, self.size_bytes, True)

    def close(self) -> None:
        """Nothing is held."""


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.integers(1, 8))
def test_blocks_whose_content_is_wanted_keep_it_while_others_are_read(wanted: list[bool], at_once: int) -> None:
    geometry = Geometry(8 * BLOCK, LOG2)
    keys = DATA_KEYS
    work = BlockWork(_Letters(), geometry, keys, StageClock(), StageClock())
    given_buffers = [bytearray(BLOCK) for _ in range(8)]
    blocks = []
    for first in range(0, 8, at_once):
        blocks += work.read(first, given_buffers[first : first + at_once], lambda number, _id: not wanted[number])
    assert [block.number for block in blocks] == list(range(8))
    assert len({id(block.buffer) for block in blocks}) == 8  # each leaves with one that is nobody else's
    for block in blocks:
        content = bytes([ord("a") + block.number]) * BLOCK
        assert block.id == blake3(content, key=keys.id_key).digest()
        assert block.settled is not wanted[block.number]
        assert block.settled or block.buffer == content
