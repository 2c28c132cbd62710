"""What a source does with each block: plan → read and name → offer → seal → send."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial

from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import HOLE, BlockId
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.records import Pieces
from holdfast_agent.sealing.tree import compute_root
from holdfast_agent.wire.specs import BackupOrder

from .blocks import Block, BlockWork, Buffers
from .conversation import (
    PAGE_BLOCKS,
    Done,
    Holes,
    Ids,
    Offer,
    Run,
    Wanted,
    WantIds,
    encode,
    runs_of,
)
from .line import Peer
from .pages import IdMap, IdPage
from .plan import Fate, Part
from .records import send_record
from .role import tell_pressure, unexpected
from .stages import Tally
from .workers import Workers

WINDOW_BYTES = 32 << 20
"""Plain blocks between disk and network at one time; as much again at most is held sealed."""

_TASK_BYTES = 4 << 20  # work handed to a thread at once: large enough that handing over costs nothing
_PAGES_AHEAD = 2
_IDLE_S = 60.0


class Pipeline:
    """The pipeline of one disk: plan → read and name → offer → seal → send, each step fed by the one after it.

    Main thread only. ``parts``: the plan; ``work``: what its workers do to blocks; ``rules`` may change while it runs.
    """

    def __init__(
        self,
        connection: Peer,
        workers: Workers,
        tally: Tally,
        work: BlockWork,
        rules: TransferRules,
        order: BackupOrder,
        parts: Iterator[Part],
        lost: tuple[Run, ...],
    ) -> None:
        self.rules = rules
        self.done = False
        self.root: BlockId | None = None
        self._connection = connection
        self._workers = workers
        self._tally = tally
        self._work = work
        self._geometry = order.geometry
        self._digest = order.mode is ChangeMode.DIGEST
        self._knows_all = order.mode is not ChangeMode.CBT
        self._base_geometry = order.base_geometry or order.geometry
        self._lost = frozenset(block for first, count in lost for block in range(first, first + count))
        self._buffers = Buffers(order.geometry.block_bytes, WINDOW_BYTES)
        self._task_blocks = max(1, min(_TASK_BYTES >> order.geometry.block_log2, self._buffers.total // 4))
        self._parts = parts
        self._part: Part | None = next(parts, None)
        self._pages: dict[int, IdPage] = {}
        self._asked_pages = 0
        self._ids = IdMap()
        self._reading = 0
        self._unoffered: list[Block] = []
        self._offers: dict[int, list[Block]] = {}
        self._offer_number = 0
        self._sealing = 0
        self._ready: deque[tuple[Block, Pieces]] = deque()
        self._offered = self._holes = self._left = self._records = 0

    def pump(self) -> float:
        """One round of all steps; see :meth:`Role.pump`."""
        if not self.done:
            self._read_ahead()
            self._offer()
            self._send_ready()
            if self._part is None and not (self._reading or self._offers or self._sealing or self._ready):
                self._end()
        # Offers wait in the line behind records, and what they ask for is not sealed before they are answered.
        waits = bool(self._ready or self._offers)
        tell_pressure(self._tally, self._connection, self.rules, waits, self.done)
        return _IDLE_S

    # --- plan and read ----------------------------------------------------------------------------------------------

    def _read_ahead(self) -> None:
        while (part := self._part) is not None:
            if self._digest and not self._has_page(part.first):
                return
            if part.fate is Fate.READ:
                count = min(part.end - part.first, self._task_blocks, self._page_end(part.first) - part.first)
                if self._buffers.free < count:
                    return
                self._reading += 1
                # The page goes with the blocks: the plan may be many pages of holes further when they are read.
                settled = partial(self._same_as_base, self._pages.get(part.first // PAGE_BLOCKS))
                self._workers.submit(self._have_read, self._work.read, part.first, self._buffers.take(count), settled)
            else:
                count = min(part.end, self._page_end(part.first)) - part.first
                self._pass_over(part.first, part.first + count, part.fate)
            rest = part._replace(first=part.first + count)
            self._part = rest if rest.first < rest.end else next(self._parts, None)

    def _pass_over(self, first: int, end: int, fate: Fate) -> None:
        """Blocks that are not read: kept from the base, holes by the disk's own word, or unused."""
        start, stop = first << self._geometry.block_log2, self._geometry.extent(end - 1).end
        self._tally.processed += stop - start
        if fate is Fate.KEEP:
            self._tally.unchanged += stop - start
        elif fate is Fate.UNUSED:
            self._tally.unused += stop - start
        else:
            self._tally.zero += stop - start
        told = 0
        if self._digest:
            told = self._send_holes(runs_of(list(self._pages[first // PAGE_BLOCKS].data_blocks(first, end))))
        elif fate is Fate.HOLE and not self._knows_all:  # zeros now, and nobody here knows what the base has
            told = self._send_holes(((first, end - first),))
        self._left += end - first - told

    def _have_read(self, blocks: list[Block]) -> None:
        self._reading -= 1
        for block in blocks:
            length = self._geometry.extent(block.number).length
            self._tally.read += length
            if block.id == HOLE:
                self._tally.zero += length
            else:
                self._ids[block.number] = block.id
            if block.settled:
                self._left += 1
                self._tally.unchanged += length if block.id != HOLE else 0
            elif block.id == HOLE:
                self._send_holes(((block.number, 1),))
            else:
                self._unoffered.append(block)
                continue
            self._tally.processed += length
            self._buffers.give_back(block.buffer)

    def _same_as_base(self, base: IdPage | None, number: int, block_id: BlockId) -> bool:
        """Whether the tree has this id at this place before anything is said about it. Called by workers."""
        if base is not None:
            return base[number] == block_id and number not in self._lost
        return self._knows_all and block_id == HOLE  # without a base every block begins as a hole

    def _send_holes(self, runs: tuple[Run, ...]) -> int:
        """Tell blocks that are zeros now and were (or may have been) data in the base; how many."""
        for run in runs:
            self._connection.send(encode(Holes(run)))
        told = sum(count for _first, count in runs)
        self._holes += told
        return told

    # --- pages of the base ------------------------------------------------------------------------------------------

    def _has_page(self, block: int) -> bool:
        """Whether the base's ids around ``block`` are here; asks for them, and a little ahead, if not."""
        page = block // PAGE_BLOCKS
        while self._asked_pages <= page + _PAGES_AHEAD and self._asked_pages * PAGE_BLOCKS < self._geometry.blocks:
            self._connection.send(encode(WantIds(self._asked_pages * PAGE_BLOCKS)))
            self._asked_pages += 1
        for old in [number for number in self._pages if number < page]:
            del self._pages[old]
        return page in self._pages

    def _page_end(self, block: int) -> int:
        """Where the page of ``block`` ends, if pages matter; parts are never handled across it."""
        return (block // PAGE_BLOCKS + 1) * PAGE_BLOCKS if self._digest else self._geometry.blocks

    def page(self, message: Ids, payload: memoryview) -> None:
        """A page of the base has come."""
        if message.first >= self._asked_pages * PAGE_BLOCKS or message.first // PAGE_BLOCKS in self._pages:
            raise unexpected(message)
        self._pages[message.first // PAGE_BLOCKS] = IdPage.receive(message, payload, self._base_geometry)

    # --- offer, seal, send ------------------------------------------------------------------------------------------

    def _offer(self) -> None:
        if not self._unoffered:
            return
        blocks = sorted(self._unoffered)
        self._unoffered = []
        self._offer_number += 1
        self._offers[self._offer_number] = blocks
        self._offered += len(blocks)
        runs = runs_of([block.number for block in blocks])
        self._connection.send(encode(Offer(self._offer_number, runs)), [block.id for block in blocks])

    def answer(self, message: Wanted) -> None:
        """The repository has looked up what was offered."""
        blocks = self._offers.pop(message.number, None)
        if blocks is None or len(blocks) != len(message.wanted):
            raise unexpected(message)
        to_seal = []
        for block, wanted in zip(blocks, message.wanted, strict=True):
            if wanted:
                to_seal.append(block)
            else:
                length = self._geometry.extent(block.number).length
                self._tally.deduplicated += length
                self._tally.processed += length
                self._buffers.give_back(block.buffer)
        for first in range(0, len(to_seal), self._task_blocks):
            self._sealing += 1
            self._workers.submit(self._sealed, self._seal, to_seal[first : first + self._task_blocks])

    def _seal(self, blocks: list[Block]) -> list[tuple[Block, Pieces]]:
        return [(block, self._work.seal(block, self.rules.compression)) for block in blocks]

    def _sealed(self, sealed: list[tuple[Block, Pieces]]) -> None:
        self._sealing -= 1
        self._ready.extend(sealed)

    def _send_ready(self) -> None:
        """Send what is sealed while the connection takes it."""
        while self._ready and self._connection.writable:
            block, record = self._ready.popleft()
            size = send_record(self._connection, record)
            self._records += 1
            length = self._geometry.extent(block.number).length
            self._tally.sent += length
            self._tally.processed += length
            self._tally.transferred += size
            # Given back only now, so that a slow network stops the reading and sealed records cannot pile up.
            self._buffers.give_back(block.buffer)

    def _end(self) -> None:
        self.done = True
        self._connection.send(encode(Done(self._offered, self._holes, self._left, self._records)))
        if self._knows_all:
            self.root = compute_root(self._ids.ids(self._geometry.blocks), self._geometry)
