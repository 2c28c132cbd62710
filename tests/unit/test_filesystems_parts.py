"""The parts of leaving out what nobody needs: checksums, and holes laid over an allocation."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.filesystems.crc32c import crc32c
from holdfast_agent.filesystems.survey import used_extents
from holdfast_agent.model.geometry import Extent


def test_the_checksum_of_the_standard_s_example() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=8),
)
def test_holes_laid_over_an_allocation(runs: list[tuple[int, bool]], gaps: list[tuple[int, int]]) -> None:
    extents, unused, position = [], [], 0
    for length, data in runs:
        extents.append(DiskExtent(position, length, data))
        position += length
    at = 0
    for gap, length in gaps:
        unused.append(Extent(at + gap, length))
        at += gap + length
    expected = [data for length, data in runs for _ in range(length)]
    for extent in unused:
        for place in range(extent.start, min(extent.end, position)):
            expected[place] = False
    found = list(used_extents(extents, unused))
    assert [extent.data for extent in found for _ in range(extent.length)] == expected
    assert found[0].start == 0
    assert all(before.start + before.length == after.start for before, after in pairwise(found))
