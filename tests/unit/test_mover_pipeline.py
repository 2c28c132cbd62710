"""The window of a source: a slow worker holds up nobody else, and no more blocks are read than there is room for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.mover.blocks import BlockWork
from holdfast_agent.mover.conversation import Done, Offer, Record, Wanted, count_blocks, decode, encode
from holdfast_agent.mover.line import LocalLine
from holdfast_agent.mover.pipeline import WINDOW_BYTES, Pipeline
from holdfast_agent.mover.plan import data_extents, plan
from holdfast_agent.mover.stages import Tally
from holdfast_agent.mover.workers import Workers
from holdfast_agent.sealing.records import parse_header
from holdfast_agent.sealing.tree import compute_root
from holdfast_agent.wire.specs import BackupOrder
from lab.repositories import DATA_KEYS

LOG2 = 20
BLOCK = 1 << LOG2
WINDOW = WINDOW_BYTES // BLOCK
GEOMETRY = Geometry(100 * BLOCK, LOG2)
PATIENCE_S = 60.0


def content(block: int) -> bytes:
    return bytes([block + 1]) * BLOCK


class SlowDisk:
    """All of it is data; whoever reads block ``slow`` waits until it is ``released``."""

    url = "lab:slow"
    size_bytes = GEOMETRY.size_bytes

    def __init__(self, slow: int | None = None) -> None:
        self.released = threading.Event()
        self.read: list[int] = []
        self._slow = slow

    def extents(self) -> Iterator[DiskExtent]:
        yield DiskExtent(0, self.size_bytes, data=True)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        block = offset >> LOG2
        if block == self._slow:
            assert self.released.wait(PATIENCE_S)
        buffer[:] = content(block)
        self.read.append(block)  # atomic, whichever thread

    def close(self) -> None: ...


class Transfer:
    """A pipeline, and the least of a target: it wants all that it is offered, and keeps the ids of what came."""

    def __init__(self, disk: SlowDisk, window_bytes: int = 1 << 30) -> None:
        order = BackupOrder(geometry=GEOMETRY, disks=(), mode=ChangeMode.ALLOCATION)
        near, self.far = LocalLine.pair(window_bytes)
        self.workers = Workers(2, "test")
        self.tally = Tally()
        work = BlockWork(disk, GEOMETRY, DATA_KEYS, self.tally.source, self.tally.proxy)
        parts = plan(order, data_extents(disk), ())
        self.pipeline = Pipeline(near, self.workers, self.tally, work, TransferRules(), order, parts, ())
        self.near = near
        self.arrived: set[bytes] = set()
        self.done: Done | None = None

    def step(self, *, listens: bool = True, stores: bool = True) -> None:
        """``listens``: take what comes and answer; ``stores``: give back the credit of the records among it."""
        self.workers.take()
        while listens and (incoming := self.far.receive()) is not None:
            message = decode(incoming.body)
            if stores or not isinstance(message, Record):
                self.far.release(incoming.cost_bytes)
            if isinstance(message, Offer):
                wanted = bytes([1]) * count_blocks(message.blocks, GEOMETRY)
                self.far.send(encode(Wanted(message.number, wanted)))
            elif isinstance(message, Record):
                self.arrived.add(parse_header(message.head).id)
            elif isinstance(message, Done):
                self.done = message
        while (answer := self.near.receive()) is not None:
            wanted_now = decode(answer.body)
            assert isinstance(wanted_now, Wanted)
            self.pipeline.answer(wanted_now)
        self.pipeline.pump()
        self.near.wait(0.01, [self.workers.fd])


@pytest.fixture
def disk() -> Iterator[SlowDisk]:
    disk = SlowDisk(slow=1)
    yield disk
    disk.released.set()


IDS = [DATA_KEYS.block_id(content(block)) for block in range(GEOMETRY.blocks)]


def test_one_slow_read_holds_up_no_more_than_the_blocks_of_its_own_task(disk: SlowDisk) -> None:
    transfer = Transfer(disk)
    while len(transfer.arrived) < GEOMETRY.blocks - 4:
        transfer.step()
    assert transfer.arrived == set(IDS[4:])
    assert transfer.done is None
    disk.released.set()
    while transfer.done is None:
        transfer.step()
    assert transfer.arrived == set(IDS)
    assert transfer.done == Done(GEOMETRY.blocks, 0, 0, GEOMETRY.blocks)
    assert transfer.pipeline.root == compute_root(iter(IDS), GEOMETRY)
    assert transfer.workers.close(PATIENCE_S)


@pytest.mark.parametrize("listens", [False, True])
def test_no_more_is_read_than_the_window_holds(listens: bool) -> None:
    """Where nothing is answered, and where what is sealed cannot leave: the buffers are all that there is."""
    disk = SlowDisk()
    transfer = Transfer(disk, window_bytes=1 << 10)
    for _ in range(5):
        transfer.step(listens=listens, stores=False)
        while transfer.workers.busy:
            transfer.step(listens=listens, stores=False)
    assert len(disk.read) == WINDOW
    assert len(transfer.arrived) == listens, "the first record takes all the credit there is"
    transfer.far.release(1 << 20)
    while transfer.done is None:
        transfer.step()
    assert transfer.arrived == set(IDS)
    assert sorted(disk.read) == list(range(GEOMETRY.blocks))
    assert transfer.workers.close(PATIENCE_S)
