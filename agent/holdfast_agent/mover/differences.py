"""Which blocks of a disk are to be written in a restore: all of a new one, or those that differ on one that was there.

A disk that is rewritten is read as a backup would read it whose base is the restore point, by the same plan: what a
change tracker says is unchanged is not read, the rest is compared by its ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId

from .blocks import Block, BlockWork, Buffers, by_id_alone
from .conversation import PAGE_BLOCKS, Run, runs_of
from .pages import IdPage
from .plan import Fate, Part
from .stages import Tally
from .workers import Workers

_BUFFER_BYTES = 32 << 20
_TASK_BYTES = 4 << 20


class ToWrite(Protocol):
    """Where a restore's work comes from. Main thread only; tells what it finds by the functions that it was given."""

    def wanted(self) -> int | None:
        """The first block of the page of ids that it cannot go on without; None: it has what it needs, or is done."""

    def page(self, page: IdPage) -> None:
        """The page that was wanted has come."""

    def pump(self) -> None:
        """Do what can be done now."""


Want = Callable[[int, BlockId], None]
"""Told of a block that must be written, and its id."""
WantZeros = Callable[[Run], None]
"""Told of blocks that must become zeros."""
Announce = Callable[[Run], None]
"""Told beforehand of blocks all of which are going to be written."""


class Everything:
    """See :class:`ToWrite`. For a disk of which nothing is known: all its blocks are written."""

    def __init__(self, geometry: Geometry, want: Want, want_zeros: WantZeros, announce: Announce) -> None:
        self._blocks = geometry.blocks
        self._next = 0
        self._want = want
        self._want_zeros = want_zeros
        self._announce = announce

    def wanted(self) -> int | None:
        return self._next if self._next < self._blocks else None

    def page(self, page: IdPage) -> None:
        end = min(page.first + PAGE_BLOCKS, self._blocks)
        following = page.first
        for first, count in (*page.data, (end, 0)):
            if first > following:
                self._want_zeros((following, first - following))
            following = first + count
        for run in page.data:
            self._announce(run)
        for block in page.data_blocks(page.first, end):
            self._want(block, page[block])
        self._next = end

    def pump(self) -> None:
        """Pages are all that it needs."""


class Differences:
    """See :class:`ToWrite`. For a disk that was there: what is as the restore point has it is left alone.

    ``parts``: the plan of reading it; ``work``: reads and names its blocks. Memory is bounded by a few buffers.
    """

    def __init__(
        self,
        geometry: Geometry,
        parts: Iterator[Part],
        work: BlockWork,
        workers: Workers,
        tally: Tally,
        want: Want,
        want_zeros: WantZeros,
    ) -> None:
        self._geometry = geometry
        self._parts = parts
        self._part: Part | None = next(parts, None)
        self._page: IdPage | None = None
        self._work = work
        self._workers = workers
        self._tally = tally
        self._want = want
        self._want_zeros = want_zeros
        self._buffers = Buffers(geometry.block_bytes, _BUFFER_BYTES)
        self._task_blocks = max(1, min(_TASK_BYTES >> geometry.block_log2, self._buffers.total // 4))

    def wanted(self) -> int | None:
        if self._part is None or self._page_of(self._part.first) is not None:
            return None
        return self._part.first // PAGE_BLOCKS * PAGE_BLOCKS

    def page(self, page: IdPage) -> None:
        self._page = page

    def pump(self) -> None:
        while (part := self._part) is not None:
            if part.fate is Fate.KEEP:
                self._same(part.first, part.end)
                end = part.end
            elif (page := self._page_of(part.first)) is None:
                return
            else:
                end = self._look(part, page)
                if end == part.first:
                    return
            rest = part._replace(first=end)
            self._part = rest if rest.first < rest.end else next(self._parts, None)

    def _page_of(self, block: int) -> IdPage | None:
        page = self._page
        return page if page is not None and page.first <= block < page.first + PAGE_BLOCKS else None

    def _look(self, part: Part, page: IdPage) -> int:
        """Go on with a part within its page; where that ends (where it began: there is no buffer free)."""
        end = min(part.end, page.first + PAGE_BLOCKS)
        if part.fate is Fate.HOLE:
            self._zeros_now(part.first, end, page)
            return end
        count = min(end - part.first, self._task_blocks)
        if self._buffers.free < count:
            return part.first
        # The page goes with the blocks: the plan may be in another one when they come back.
        buffers = self._buffers.take(count)
        self._workers.submit(partial(self._compare, page), self._work.read, part.first, buffers, by_id_alone)
        return part.first + count

    def _zeros_now(self, first: int, end: int, page: IdPage) -> None:
        """Blocks that are zeros by the disk's own word: they differ where the point has data."""
        following = first
        for block in page.data_blocks(first, end):
            self._same(following, block)
            self._want(block, page[block])
            following = block + 1
        self._same(following, end)

    def _compare(self, page: IdPage, blocks: list[Block]) -> None:
        zeros = []
        for block in blocks:
            self._tally.read += self._geometry.extent(block.number).length
            self._buffers.give_back(block.buffer)
            believed = page[block.number]
            if block.id == believed:
                self._same(block.number, block.number + 1)
            elif believed == HOLE:
                zeros.append(block.number)
            else:
                self._want(block.number, believed)
        for run in runs_of(zeros):
            self._want_zeros(run)

    def _same(self, first: int, end: int) -> None:
        """Blocks that are left as they are."""
        if first < end:
            length = self._geometry.extent(end - 1).end - (first << self._geometry.block_log2)
            self._tally.unchanged += length
            self._tally.processed += length
