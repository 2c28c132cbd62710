"""Which cells of a disk were written: a bitmap in pages, in memory where there is anything, in a file when flushed.

A bit once set is never cleared. So a page that was torn while it was written holds, bit by bit, the old or the new
state, and both are right as long as the cells behind the new one are durable before it is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby

from holdfast_agent.disks.sparse import extents_of

PAGE_BYTES = 4096
_PAGE_CELLS = PAGE_BYTES * 8


class WrittenCells:
    """Not thread-safe. ``fd``: of the file, which this owns no more than it made it."""

    def __init__(self, fd: int, cells: int) -> None:
        """Reads what was flushed. Raises OSError."""
        self._fd = fd
        self._cells = cells
        self._pages: dict[int, bytearray] = {}
        self._dirty: set[int] = set()
        pages = -(-cells // _PAGE_CELLS)
        for extent in extents_of(fd, 0, pages * PAGE_BYTES):
            if extent.data:
                for number in range(extent.start // PAGE_BYTES, -(-(extent.start + extent.length) // PAGE_BYTES)):
                    page = os.pread(fd, PAGE_BYTES, number * PAGE_BYTES)
                    if any(page):
                        self._pages[number] = bytearray(page.ljust(PAGE_BYTES, b"\0"))

    @property
    def dirty(self) -> bool:
        """Whether anything was set that the file does not have."""
        return bool(self._dirty)

    def any(self, first: int, end: int) -> bool:
        """Whether any of these cells was written."""
        return any(written for _, written in self.runs(first, end))

    def runs(self, first: int, end: int) -> Iterator[tuple[int, bool]]:
        """(number of cells, whether they were written) of ``[first, end)``, ascending, no neighbours alike."""
        for written, alike in groupby(self._runs(first, end), key=lambda run: run[1]):
            yield sum(count for count, _ in alike), written

    def mark(self, first: int, end: int) -> None:
        """These cells were written."""
        while first < end:
            number, place = divmod(first, _PAGE_CELLS)
            stop = min(_PAGE_CELLS, place + end - first)
            page = self._pages.get(number)
            if page is None:
                page = self._pages[number] = bytearray(PAGE_BYTES)
            low, high = place >> 3, (stop + 7) >> 3
            bits = (1 << stop - (low << 3)) - (1 << place - (low << 3))
            before = int.from_bytes(page[low:high], "little")
            if before | bits != before:
                page[low:high] = (before | bits).to_bytes(high - low, "little")
                self._dirty.add(number)
            first += stop - place

    def take_dirty(self) -> dict[int, bytes]:
        """Pages that the file does not have as they are now, for :meth:`store`; they count as stored from now on."""
        taken = {number: bytes(self._pages[number]) for number in self._dirty}
        self._dirty.clear()
        return taken

    def store(self, pages: dict[int, bytes]) -> None:
        """Write pages and make them durable; the cells that they name must be durable already. Raises OSError."""
        for number, page in pages.items():
            if os.pwrite(self._fd, page, number * PAGE_BYTES) != PAGE_BYTES:
                raise OSError(f"a page of the bitmap was cut off at {number * PAGE_BYTES}")
        os.fdatasync(self._fd)

    def _runs(self, first: int, end: int) -> Iterator[tuple[int, bool]]:
        while first < end:
            number, place = divmod(first, _PAGE_CELLS)
            stop = min(_PAGE_CELLS, place + end - first)
            page = self._pages.get(number)
            if page is None:
                yield stop - place, False
            else:
                low, high = place >> 3, (stop + 7) >> 3
                yield from _bit_runs(int.from_bytes(page[low:high], "little") >> (place & 7), stop - place)
            first += stop - place


def _bit_runs(bits: int, count: int) -> Iterator[tuple[int, bool]]:
    """Runs of the lowest ``count`` bits."""
    bits &= (1 << count) - 1
    while count:
        written = bool(bits & 1)
        other = ~bits if written else bits
        length = min(count, (other & -other).bit_length() - 1) if other else count
        yield length, written
        bits >>= length
        count -= length
