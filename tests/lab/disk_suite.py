"""What every disk must do, readable or writable. A backend's test file supplies the disk."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import pytest

from holdfast_agent.disks.disk import DiskExtent, ReadableDisk, RewritableDisk, WritableDisk
from lab.contents import assert_same

SIZE = (9 << 20) + 4096
DATA = ((0, 4096), (3 << 20, 70_000), (9 << 20, 4096))


def content() -> bytes:
    """A disk with data at its start, in its middle and at its end, which is no multiple of a block."""
    disk = bytearray(SIZE)
    for start, length in DATA:
        disk[start : start + length] = bytes((start >> 12) + i * 7 & 0xFF or 1 for i in range(length))
    return bytes(disk)


class DiskSuite:
    """Subclasses give the fixture ``disk`` (open, holding :func:`content`) and say whether it ``tells_holes``."""

    tells_holes = True

    @pytest.fixture
    def disk(self) -> ReadableDisk:
        raise NotImplementedError

    def test_size(self, disk: ReadableDisk) -> None:
        assert disk.size_bytes == SIZE

    def test_reads_everything(self, disk: ReadableDisk) -> None:
        buffer = bytearray(SIZE)
        disk.read_into(0, memoryview(buffer))
        assert_same(buffer, content())

    @pytest.mark.parametrize(("start", "length"), [(0, 1), (1, 511), (4095, 2), (3 << 20, 70_000), (SIZE - 1, 1)])
    def test_reads_any_range(self, disk: ReadableDisk, start: int, length: int) -> None:
        buffer = bytearray(b"\xee" * length)
        disk.read_into(start, memoryview(buffer))
        assert_same(buffer, content()[start : start + length])

    def test_reads_from_several_threads(self, disk: ReadableDisk) -> None:
        step = 1 << 16
        expected = content()

        def same(start: int) -> bool:
            buffer = bytearray(min(step, SIZE - start))
            disk.read_into(start, memoryview(buffer))
            return buffer == expected[start : start + step]

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(same, range(0, SIZE, step)))

    def test_extents_cover_the_disk_once_and_in_order(self, disk: ReadableDisk) -> None:
        extents = list(disk.extents())
        assert extents[0].start == 0
        assert all(extent.length > 0 for extent in extents)
        assert all(before.start + before.length == after.start for before, after in pairwise(extents))
        assert extents[-1].start + extents[-1].length == SIZE

    def test_what_is_called_a_hole_is_zeros(self, disk: ReadableDisk) -> None:
        expected = content()
        holes = [extent for extent in disk.extents() if not extent.data]
        assert all(not any(expected[hole.start : hole.start + hole.length]) for hole in holes)
        assert bool(holes) == self.tells_holes

    def test_extents_can_be_walked_again(self, disk: ReadableDisk) -> None:
        first: list[DiskExtent] = list(disk.extents())
        assert list(disk.extents()) == first

    def test_close_is_idempotent(self, disk: ReadableDisk) -> None:
        disk.close()
        disk.close()


class Restored(NamedTuple):
    """A target of :data:`SIZE` bytes that is open, and how to see what it holds after ``finish``.

    ``before``: what it held when it was opened; no new disk holds anything.
    """

    target: WritableDisk
    found: Callable[[], bytes]
    before: bytes


class WritableSuite:
    """Subclasses give the fixture ``restored``."""

    @pytest.fixture
    def restored(self) -> Restored:
        raise NotImplementedError

    def test_blocks_in_any_order_from_several_threads(self, restored: Restored) -> None:
        whole = random.Random(1).randbytes(SIZE)
        starts = list(range(0, SIZE, 1 << 20))
        random.Random(2).shuffle(starts)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda start: restored.target.write(start, whole[start : start + (1 << 20)]), starts))
        restored.target.finish()
        assert_same(restored.found(), whole)

    def test_data_and_zeros_side_by_side_from_several_threads(self, restored: Restored) -> None:
        target, expected = restored.target, content()
        ends = sorted({0, SIZE, *(place for start, length in DATA for place in (start, start + length))})

        def restore(piece: tuple[int, int]) -> None:
            start, end = piece
            if any(expected[start:end]):
                target.write(start, memoryview(expected)[start:end])
            else:
                target.write_zeros(start, end - start)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(restore, pairwise(ends)))
        target.finish()
        assert_same(restored.found(), expected)

    @pytest.mark.parametrize(("start", "length"), [(0, 1), (511, 2), (4095, 4098), (70_000, 3 << 20), (SIZE - 1, 1)])
    def test_any_range_and_nothing_beside_it(self, restored: Restored, start: int, length: int) -> None:
        expected = bytearray(restored.before)
        data = random.Random(3).randbytes(length)
        restored.target.write(start, data)
        expected[start : start + length] = data
        zeros = (start + length + 100, min(SIZE - start - length - 100, 1 << 20))
        if zeros[1] > 0:
            restored.target.write_zeros(*zeros)
            expected[zeros[0] : sum(zeros)] = bytes(zeros[1])
        restored.target.finish()
        assert_same(restored.found(), expected)

    def test_ends_are_idempotent(self, restored: Restored) -> None:
        restored.target.write(0, b"x" * 512)
        restored.target.finish()
        restored.target.abort()
        restored.target.abort()
        assert restored.found()[:512] == b"x" * 512

    def test_giving_up_needs_nothing(self, restored: Restored) -> None:
        restored.target.write(0, b"x" * 512)
        restored.target.abort()
        restored.target.abort()


class RewritableSuite(WritableSuite):
    """For disks that were there before; ``before`` tells what is on them."""

    def test_what_is_there_can_be_read_and_so_can_what_is_written(self, restored: Restored) -> None:
        target = restored.target
        assert isinstance(target, RewritableDisk)
        assert target.now.size_bytes >= SIZE
        expected = bytearray(restored.before)
        assert_same(_read(target.now), expected)
        data = random.Random(4).randbytes(1 << 20)
        target.write(1 << 20, data)
        target.write_zeros(5 << 20, 1 << 20)
        expected[1 << 20 : 2 << 20] = data
        expected[5 << 20 : 6 << 20] = bytes(1 << 20)
        assert_same(_read(target.now), expected)
        holes = [extent for extent in target.now.extents() if not extent.data]
        assert not any(any(expected[hole.start : hole.start + hole.length]) for hole in holes)
        target.abort()
        assert_same(restored.found(), expected)


def _read(disk: ReadableDisk) -> bytearray:
    buffer = bytearray(SIZE)
    disk.read_into(0, memoryview(buffer))
    return buffer
