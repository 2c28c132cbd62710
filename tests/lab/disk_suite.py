"""What every readable disk must do. A backend's test file supplies ``image``: a disk that holds given bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from holdfast_agent.disks.disk import DiskExtent, ReadableDisk

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
        assert buffer == content()

    @pytest.mark.parametrize(("start", "length"), [(0, 1), (1, 511), (4095, 2), (3 << 20, 70_000), (SIZE - 1, 1)])
    def test_reads_any_range(self, disk: ReadableDisk, start: int, length: int) -> None:
        buffer = bytearray(b"\xee" * length)
        disk.read_into(start, memoryview(buffer))
        assert buffer == content()[start : start + length]

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
