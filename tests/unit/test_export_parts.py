"""Parts of an export: the bitmap of written cells, ids from a tree, the cache, reading ahead, and the overlay."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from holdfast_agent.errors import OriginDamaged, UsageError
from holdfast_agent.export.cache import BlockCache
from holdfast_agent.export.cells import PAGE_BYTES, WrittenCells
from holdfast_agent.export.image import PointImage
from holdfast_agent.export.overlay import OverlayImage
from holdfast_agent.export.readahead import ReadAhead
from holdfast_agent.export.tree import TreeIds
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId
from holdfast_agent.mover.fetcher import NoWholeRecord
from holdfast_agent.sealing.keys import PUBLIC, RepositoryKeys
from holdfast_agent.sealing.records import Pieces, RecordKind, plain_record, seal_record
from holdfast_agent.sealing.tree import FANOUT, decode_node, encode_node, root_level
from holdfast_agent.wire.specs import BlockTree, ExportDisk
from lab import repositories as lab

CELLS = 2 * PAGE_BYTES * 8 + 100
GEOMETRY = Geometry(5 * lab.BLOCK + 5000, lab.LOG2)
BLOCKS = {0: lab.block(0), 2: lab.block(2), 5: lab.block(5)[:5000].ljust(lab.BLOCK, b"\0")}


class Shelf:
    """A tree and sealed blocks in memory: what a repository gives, counted."""

    def __init__(self, blocks: dict[int, bytes], geometry: Geometry) -> None:
        self.reads: list[BlockId] = []
        self.first_homes: dict[BlockId, Pieces | None] = {}
        self.forgotten: list[BlockId] = []
        self._records: dict[BlockId, Pieces] = {}
        self._nodes: dict[BlockId, bytes] = {}
        level_ids = {number: lab.block_id(block) for number, block in blocks.items()}
        for block in blocks.values():
            self._records[lab.block_id(block)] = lab.seal(block)
        for level in range(root_level(geometry) + 1):
            below, level_ids = level_ids, {}
            for number in {each // FANOUT for each in below}:
                ids = b"".join(below.get(number * FANOUT + place, HOLE) for place in range(FANOUT))
                level_ids[number], data = encode_node(level, geometry.block_log2, ids)
                self._nodes[level_ids[number]] = data
        self.tree = BlockTree(level_ids.get(0, HOLE), geometry)

    def nodes(self, wanted: Sequence[tuple[BlockId, int]]) -> list[bytes]:
        self.reads += [node for node, _ in wanted]
        log2 = self.tree.geometry.block_log2
        return [decode_node(self._nodes[node], node, level, log2).ids for node, level in wanted]

    def fetch(self, ids: Sequence[BlockId], refused: int = 0) -> list[Future[Pieces]]:
        futures = []
        for each in ids:
            self.reads.append(each)
            future: Future[Pieces] = Future()
            if each in self._nodes:
                future.set_result(plain_record(RecordKind.NODE, self._nodes[each], each))
            elif each in self._records and not refused:
                future.set_result(self._records[each])
            else:
                future.set_exception(NoWholeRecord("it is not there"))
            futures.append(future)
        return futures

    def read(self, record_id: BlockId) -> Pieces | None:
        """As it stands in its first home, for small reads."""
        self.reads.append(record_id)
        return self.first_homes.get(record_id, self._records.get(record_id))

    def forget(self, record_id: BlockId) -> None:
        self.forgotten.append(record_id)


def bytes_of(image: PointImage | OverlayImage, offset: int, length: int, at_hand: bool = False) -> bytes | None:
    parts = image.at_hand(offset, length) if at_hand else image.read(offset, length)
    if parts is None:
        return None
    return b"".join(bytes(part) for part in parts)


# --- cells ------------------------------------------------------------------------------------------------------------

_ranges = st.tuples(st.integers(0, CELLS - 1), st.integers(1, 3000)).map(lambda r: (r[0], min(CELLS, sum(r))))


@given(st.lists(_ranges, max_size=12), _ranges, st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cells_are_the_ones_that_were_marked_now_and_after_a_store(
    tmp_path: Path, marks: list[tuple[int, int]], look: tuple[int, int], reopened: bool
) -> None:
    path = tmp_path / "map"
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        cells = WrittenCells(fd, CELLS)
        marked: set[int] = set()
        for first, end in marks:
            cells.mark(first, end)
            marked |= set(range(first, end))
        if reopened:
            cells.store(cells.take_dirty())
            assert not cells.dirty
            cells = WrittenCells(fd, CELLS)
        runs = list(cells.runs(*look))
        told = [written for count, written in runs for _ in range(count)]
        assert told == [cell in marked for cell in range(*look)]
        assert all(a[1] is not b[1] for a, b in pairwise(runs))
        assert cells.any(*look) is any(told)
    finally:
        os.close(fd)


# --- ids --------------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 70_000), max_size=30), st.integers(0, 70_000), st.integers(1, 5000))
@settings(max_examples=40, deadline=None)
def test_ids_and_runs_are_those_of_the_tree_and_what_is_missing_costs_nothing(
    there: set[int], first: int, count: int
) -> None:
    geometry = Geometry(70_001 << lab.LOG2, lab.LOG2)
    one = lab.block("one")
    shelf = Shelf(dict.fromkeys(sorted(there), one), geometry)
    ids = TreeIds(shelf.tree, shelf.nodes)
    end = min(first + count, geometry.blocks)
    told = [data for run, data in ids.runs(first, end) for _ in range(run)]
    assert told == [block in there for block in range(first, end)]
    touched = {block // FANOUT for block in there if first // FANOUT <= block // FANOUT <= end // FANOUT}
    assert len(shelf.reads) <= 2 + 2 + len(touched)  # the root, the nodes in between, the leaves that are there
    for block in [*list(there)[:5], first]:
        assert ids.of(block) == (lab.block_id(one) if block in there else HOLE)
        assert ids.at_hand(block) in (None, ids.of(block))


def test_a_disk_of_any_size_is_opened_by_its_root_and_a_path(tmp_path: Path) -> None:
    geometry = Geometry(100 << 40, lab.LOG2)
    shelf = Shelf({geometry.blocks - 1: lab.block(1)}, geometry)
    ids = TreeIds(shelf.tree, shelf.nodes)
    assert ids.of(0) == HOLE
    assert len(shelf.reads) <= 2
    assert list(ids.runs(geometry.blocks - 2, geometry.blocks)) == [(1, False), (1, True)]
    assert len(shelf.reads) == root_level(geometry) + 1


# --- cache ------------------------------------------------------------------------------------------------------------


def test_a_block_is_loaded_once_however_many_ask_and_an_error_reaches_all() -> None:
    with closing(BlockCache(1 << 20, 4)) as cache:
        go, calls = threading.Event(), []

        def load() -> bytes:
            calls.append(1)
            assert go.wait(60)
            return b"x" * 100

        asked = [cache.get(BlockId(b"a" * 32), load) for _ in range(50)]
        assert cache.peek(BlockId(b"a" * 32)) is None
        go.set()
        assert [future.result(20) for future in asked] == [b"x" * 100] * 50
        assert len(calls) == 1
        assert cache.peek(BlockId(b"a" * 32)) == b"x" * 100

        def fail() -> bytes:
            raise OriginDamaged(what="block", disk="d", reason="r")

        for _ in range(2):  # an error is not kept
            with pytest.raises(OriginDamaged):
                cache.get(BlockId(b"b" * 32), fail).result(20)


def test_the_cache_keeps_to_its_bytes_and_lets_the_oldest_go() -> None:
    with closing(BlockCache(10 * 1000, 2)) as cache:
        names = [BlockId(bytes([number]) * 32) for number in range(30)]
        for name in names:
            cache.get(name, lambda: b"x" * 1000).result(20)
            cache.peek(names[0])  # is used all the time
            assert cache.kept_bytes <= 10 * 1000
        assert cache.peek(names[0]) is not None
        assert cache.peek(names[1]) is None
        assert cache.peek(names[29]) is not None


# --- reading ahead ----------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_on_is_read_ahead_of_each_block_once_and_random_ones_are_not() -> None:
    course = ReadAhead(1 << 20)
    ahead: list[int] = []
    for block in range(100):
        for _part in range(4):
            told = course.after(block, block)
            assert all(each > block for each in told)
            ahead += told
    assert ahead == list(range(3, 3 + len(ahead)))
    assert 8 <= ahead[-1] - 99 <= 16
    course = ReadAhead(1 << 20)
    assert not any(len(course.after(block, block)) for block in (5, 900, 17, 18, 17, 4000, 3, 3, 900, 901))


# --- small reads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def near() -> Iterator[tuple[PointImage, Shelf, BlockCache]]:
    """An image whose records are on its host."""
    shelf = Shelf(BLOCKS, GEOMETRY)
    with closing(BlockCache(1 << 20, 2)) as cache:
        yield PointImage(ExportDisk(name="d", tree=shelf.tree), shelf, lab.DATA_KEYS, cache, near=shelf), shelf, cache


def test_a_block_is_kept_once_it_is_read_again_and_again(near: tuple[PointImage, Shelf, BlockCache]) -> None:
    image, shelf, cache = near
    wanted = lab.block_id(BLOCKS[2])
    for time in range(20):
        place = 100 * time
        assert bytes_of(image, 2 * lab.BLOCK + place, 50) == BLOCKS[2][place : place + 50]
    assert cache.peek(wanted) == BLOCKS[2]
    assert 2 <= shelf.reads.count(wanted) < 10


def test_parts_of_blocks_are_right_wherever_they_begin_and_end(near: tuple[PointImage, Shelf, BlockCache]) -> None:
    image, _, _ = near
    whole = bytearray(GEOMETRY.size_bytes)
    for number, block in BLOCKS.items():
        whole[GEOMETRY.extent(number).start : GEOMETRY.extent(number).end] = block[: GEOMETRY.extent(number).length]
    edges = [0, 1, lab.BLOCK - 1, lab.BLOCK, 2 * lab.BLOCK, 3 * lab.BLOCK - 7, GEOMETRY.size_bytes - 4097]
    for start in edges:
        for length in (1, 4097):
            image._first_reads._reads.clear()
            assert bytes_of(image, start, length) == whole[start : start + length]


def test_a_small_read_of_what_is_damaged_is_an_error(near: tuple[PointImage, Shelf, BlockCache]) -> None:
    image, shelf, _ = near
    head, payload = shelf._records[lab.block_id(BLOCKS[2])]
    shelf._records[lab.block_id(BLOCKS[2])] = (head, bytes(payload[:-1]) + bytes([payload[-1] ^ 1]))
    with pytest.raises(OriginDamaged, match="block 2 of d"):
        image.read(2 * lab.BLOCK, 1)
    shelf._records[lab.block_id(BLOCKS[2])] = shelf._records[lab.block_id(BLOCKS[0])]
    with pytest.raises(OriginDamaged, match="block 2 of d"):
        image.read(2 * lab.BLOCK, 1)


def test_a_first_home_that_is_gone_or_altered_is_passed_over_for_a_whole_one(
    near: tuple[PointImage, Shelf, BlockCache],
) -> None:
    image, shelf, _ = near
    wanted = lab.block_id(BLOCKS[2])
    head, payload = shelf._records[wanted]
    altered = (head, bytes([payload[0] ^ 1]) + bytes(payload[1:]))
    of_another = shelf._records[lab.block_id(BLOCKS[0])]
    for first in (None, altered, of_another, (head[:50], b""), (head, payload[:-1])):
        shelf.first_homes[wanted] = first
        assert bytes_of(image, 2 * lab.BLOCK + 7, 50) == BLOCKS[2][7:57]
        image._first_reads._reads.clear()
    assert shelf.forgotten == [wanted] * 4


def test_what_no_key_vouches_for_is_proved_by_its_id_before_a_byte_of_it_is_served() -> None:
    """Without encryption anybody could have written a record, with all its checksums right."""
    shelf = Shelf(BLOCKS, GEOMETRY)
    keys = RepositoryKeys.derive(PUBLIC, lab.REPOSITORY_ID).data_keys()
    true, false = lab.block_id(BLOCKS[2]), lab.block("false")
    shelf._records[true] = seal_record(RecordKind.DATA, false, true, keys)
    with closing(BlockCache(1 << 20, 2)) as cache:
        image = PointImage(ExportDisk(name="d", tree=shelf.tree), shelf, keys, cache, near=shelf)
        with pytest.raises(OriginDamaged, match="block 2 of d"):
            image.read(2 * lab.BLOCK, 1)


# --- overlay ----------------------------------------------------------------------------------------------------------


class OverlayModel(RuleBasedStateMachine):
    """The overlay beside a bytearray; a reopening without a flush may lose writes, and nothing but writes."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        whole = bytearray(GEOMETRY.size_bytes)
        for number, block in BLOCKS.items():
            extent = GEOMETRY.extent(number)
            whole[extent.start : extent.end] = block[: extent.length]
        self.now = whole
        self.folder = Path(type(self).folder) / os.urandom(6).hex()
        self.folder.mkdir()

    @initialize()
    def open(self) -> None:
        shelf = Shelf(BLOCKS, GEOMETRY)
        disk = ExportDisk(name="d", tree=shelf.tree)
        self.cache = BlockCache(1 << 20, 2)
        self.near = not getattr(self, "near", False)  # the next time the other way
        point = PointImage(disk, shelf, lab.DATA_KEYS, self.cache, near=shelf if self.near else None)
        self.image = OverlayImage(point, disk, self.folder / "o")

    _places = st.tuples(st.integers(0, GEOMETRY.size_bytes - 1), st.integers(1, 20_000))

    @rule(place=_places, byte=st.integers(1, 255), align=st.booleans())
    def write(self, place: tuple[int, int], byte: int, align: bool) -> None:
        start, end = self._range(place, align)
        if end > start:
            self.image.write(start, memoryview(bytes([byte]) * (end - start)))
            self.now[start:end] = bytes([byte]) * (end - start)

    @rule(place=_places, align=st.booleans(), keep_space=st.booleans())
    def zero(self, place: tuple[int, int], align: bool, keep_space: bool) -> None:
        start, end = self._range(place, align)
        if end > start:
            self.image.zero(start, end - start, keep_space=keep_space, fast=False)
            self.now[start:end] = bytes(end - start)

    @rule()
    def reopen(self) -> None:
        self.image.close()
        self.cache.close()
        self.open()

    @rule(place=_places)
    def read(self, place: tuple[int, int]) -> None:
        start, end = self._range(place, False)
        assert (bytes_of(self.image, start, end - start) == self.now[start:end]) is True
        quick = bytes_of(self.image, start, end - start, at_hand=True)
        assert quick is None or (quick == self.now[start:end]) is True

    @invariant()
    def what_is_told_to_be_a_hole_is_zeros(self) -> None:
        offset = 0
        for run in self.image.runs(0, GEOMETRY.size_bytes):
            assert not run.state or not any(self.now[offset : offset + run.length])
            offset += run.length
        assert offset == GEOMETRY.size_bytes

    def teardown(self) -> None:
        assert (bytes_of(self.image, 0, GEOMETRY.size_bytes) == self.now) is True
        self.image.close()
        self.cache.close()

    @staticmethod
    def _range(place: tuple[int, int], align: bool) -> tuple[int, int]:
        start, end = place[0], min(GEOMETRY.size_bytes, sum(place))
        return (start & -4096, end & -4096) if align else (start, end)


def test_an_overlay_is_a_disk(tmp_path: Path) -> None:
    OverlayModel.folder = tmp_path
    run_state_machine_as_test(
        OverlayModel, settings=settings(max_examples=25, stateful_step_count=20, deadline=None, database=None)
    )


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[tuple[OverlayImage, Path]]:
    shelf = Shelf(BLOCKS, GEOMETRY)
    disk = ExportDisk(name="d", tree=shelf.tree)
    with closing(BlockCache(1 << 20, 2)) as cache:
        image = OverlayImage(PointImage(disk, shelf, lab.DATA_KEYS, cache), disk, tmp_path / "o")
        yield image, tmp_path / "o"
        image.close()


def test_the_map_names_no_cell_whose_data_are_not_durable(
    overlay: tuple[OverlayImage, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the writes, call by call: data first, and what was written meanwhile waits for the next flush."""
    image, folder = overlay
    synced: list[str] = []
    durable = b""
    real, names = os.fdatasync, {image._data: "data", image._map: "map"}

    def sync(fd: int) -> None:
        nonlocal durable
        synced.append(names[fd])
        if len(synced) == 1:
            image.write(3 << 12, memoryview(b"y" * 4096))  # by another client, while the data are being synced
        if names[fd] == "data":
            assert (folder / "map").read_bytes().rstrip(b"\0") == durable
        real(fd)
        durable = (folder / "map").read_bytes().rstrip(b"\0")

    monkeypatch.setattr(os, "fdatasync", sync)
    image.write(1 << 12, memoryview(b"x" * 4096))
    image.flush()
    assert synced == ["data", "map"]
    assert (folder / "map").read_bytes().rstrip(b"\0") == bytes([0b10])
    image.flush()
    assert synced == ["data", "map", "data", "map"]
    assert (folder / "map").read_bytes().rstrip(b"\0") == bytes([0b1010])
    image.flush()  # nothing was written since
    assert len(synced) == 4


def test_after_a_failed_flush_nothing_is_called_durable_any_more(
    overlay: tuple[OverlayImage, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = overlay
    image.write(0, memoryview(b"x"))

    def fail(fd: int) -> None:
        raise OSError(5, "a medium error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="medium"):
        image.flush()
    monkeypatch.undo()
    for call in (image.flush, lambda: image.write(0, memoryview(b"y"))):
        with pytest.raises(OSError, match="earlier flush"):
            call()


def test_an_overlay_belongs_to_its_disk(overlay: tuple[OverlayImage, Path]) -> None:
    image, folder = overlay
    image.write(0, memoryview(b"x"))
    image.flush()
    other = Shelf({1: lab.block("other")}, GEOMETRY)
    disk = ExportDisk(name="d", tree=other.tree)
    with closing(BlockCache(1 << 20, 2)) as cache, pytest.raises(UsageError, match="another disk"):
        OverlayImage(PointImage(disk, other, lab.DATA_KEYS, cache), disk, folder)


def test_damage_is_an_error_and_never_other_bytes() -> None:
    shelf = Shelf(BLOCKS, GEOMETRY)
    shelf._records[lab.block_id(BLOCKS[2])] = lab.seal(lab.block("wrong"))
    with closing(BlockCache(1 << 20, 2)) as cache:
        image = PointImage(ExportDisk(name="d", tree=shelf.tree), shelf, lab.DATA_KEYS, cache)
        with pytest.raises(OriginDamaged, match="block 2 of d"):
            image.read(2 * lab.BLOCK, 1)
        assert bytes_of(image, 0, lab.BLOCK) == BLOCKS[0]
