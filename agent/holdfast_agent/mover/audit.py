"""The audit of change tracking: a sample of the blocks that nobody means to read is read and compared all the same.

Trackers have told less than had changed: hypervisors had defects, images were written to past them, bitmaps lost.
Nothing else in a backup would ever notice. So before each transfer that takes blocks on a tracker's word, some of these
blocks are drawn, all with the same chance, holes of the base among them, and their ids are compared with the base's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from random import Random

from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import HOLE, BlockId
from holdfast_agent.wire.specs import BackupOrder

from .blocks import Block, BlockWork, Buffers, by_id_alone
from .conversation import LEAF_BLOCKS, Ids, Run
from .pages import IdPage
from .plan import Fate, plan
from .role import unexpected
from .stages import Tally
from .workers import Workers

_LEAVES_AHEAD = 16
_BUFFER_BYTES = 16 << 20


def draw(order: BackupOrder, lost: Iterable[Run], rate: AuditRate, chance: Random) -> Iterator[int]:
    """The blocks to look at, ascending: each that ``order`` leaves unread is drawn with the same chance, none twice."""
    lost = tuple(lost)
    total = sum(count for _first, count in _unread(order, lost))
    size = rate.of(total)
    places = range(total) if size == total else sorted(chance.sample(range(total), size))
    return _blocks_at(_unread(order, lost), places)


def _unread(order: BackupOrder, lost: Iterable[Run]) -> Iterator[Run]:
    """What is taken on the tracker's word; what changed into zeros is not, that is the disk's own."""
    trusted = Fate.KEEP if order.mode is ChangeMode.CBT else Fate.HOLE
    for part in plan(order, (), lost):
        if part.fate is trusted:
            yield part.first, part.end - part.first


def _blocks_at(runs: Iterator[Run], places: Iterable[int]) -> Iterator[int]:
    """Of all blocks of ``runs``, counted through, those at the ascending ``places``."""
    passed = first = count = 0
    for place in places:
        while place >= passed + count:
            passed += count
            first, count = next(runs)
        yield first + place - passed


class Audit:
    """Reads and compares the blocks of a sample. Main thread only.

    It ends early when it has found a block that differs: what follows reads the whole disk anyway. Memory is bounded
    by a few buffers, and by the small pages of ids that are on their way.
    """

    def __init__(
        self,
        sample: Iterator[int],
        geometry: Geometry,
        work: BlockWork,
        workers: Workers,
        tally: Tally,
        ask: Callable[[int], None] | None,
        then: Callable[[int | None], None],
    ) -> None:
        """``geometry``: the base's. ``ask``: for the base's ids of LEAF_BLOCKS blocks from the given one on, which
        :meth:`page` is then given; None: there is no base, and what was drawn must be zeros. ``then``: called once, at
        the end, with the first block that was found to differ (None: there was none)."""
        self._leaves = ((leaf * LEAF_BLOCKS, list(found)) for leaf, found in groupby(sample, _leaf_of))
        self._geometry = geometry
        self._work = work
        self._workers = workers
        self._tally = tally
        self._ask = ask
        self._then = then
        self._buffers = Buffers(1 << geometry.block_log2, _BUFFER_BYTES)
        self._asked: dict[int, list[int]] = {}
        self._known: deque[tuple[int, BlockId]] = deque()
        self._reading = 0
        self._drawn = False
        self._first_missed: int | None = None

    def pump(self) -> None:
        """Ask for ids a little ahead, and read what can be compared. Not called again after the end."""
        while not self._drawn and len(self._asked) < _LEAVES_AHEAD and len(self._known) < LEAF_BLOCKS:
            leaf = next(self._leaves, None)
            if leaf is None:
                self._drawn = True
            elif self._ask is None:
                self._known.extend((block, HOLE) for block in leaf[1])
            else:
                self._asked[leaf[0]] = leaf[1]
                self._ask(leaf[0])
        while self._known and self._buffers.free:
            block, believed = self._known.popleft()
            self._reading += 1
            buffers = self._buffers.take(1)
            self._workers.submit(partial(self._compare, believed), self._work.read, block, buffers, by_id_alone)
        if self._drawn and not (self._asked or self._known or self._reading):
            self._then(self._first_missed)

    def page(self, message: Ids, payload: memoryview) -> None:
        """The base's ids of one leaf have come."""
        blocks = self._asked.pop(message.first, None)
        if blocks is None:
            raise unexpected(message)
        page = IdPage.receive(message, payload, self._geometry, LEAF_BLOCKS)
        if self._first_missed is None:
            self._known.extend((block, page[block]) for block in blocks)

    def _compare(self, believed: BlockId, blocks: list[Block]) -> None:
        self._reading -= 1
        for block in blocks:
            self._buffers.give_back(block.buffer)
            self._tally.audited += 1
            if block.id == believed:
                continue
            self._tally.missed += 1
            self._drawn = True
            self._known.clear()
            if self._first_missed is None or block.number < self._first_missed:
                self._first_missed = block.number


def _leaf_of(block: int) -> int:
    return block // LEAF_BLOCKS
