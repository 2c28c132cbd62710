"""kill -9 of an exporter in the midst of writes; a collector and damage beside an export.

What a client was told to be durable is there for the next exporter. What it was not told may be there, block by block,
or not; nothing else ever is.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast_agent.disks.nbd.protocol import Command, CommandFlag
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.repository.gc.collector import collect
from lab import repositories as lab
from lab.exports import Export, content_of, exported, nbdsh, store, trees_of
from lab.movers import Site
from lab.nbd_client import Raw

GEOMETRY = Geometry(24 * lab.BLOCK, lab.LOG2)
BLOCKS = {number: lab.block(number) for number in range(0, 24, 3)}
WANT = content_of(BLOCKS, GEOMETRY)
CELL = 4096
CELLS = GEOMETRY.size_bytes // CELL


class Writer(threading.Thread):
    """One client that writes cells of its own, each time with a higher number, and notes what it was told."""

    def __init__(self, export: Export, own: range, seed: int, numbers: dict[int, int]) -> None:
        super().__init__(daemon=True)
        self.began = threading.Event()
        self.durable = dict(numbers)
        self.sent: dict[int, int] = dict(numbers)
        self._export, self._own, self._random = export, own, random.Random(seed)

    def run(self) -> None:
        with suppress(EOFError, ConnectionError), Raw(self._export) as client:
            client.go(structured=False)
            for step in range(1_000_000):
                self._write(client, step)
                self.began.set()

    def _write(self, client: Raw, step: int) -> None:
        cell = self._random.choice(self._own)
        fua = step % 7 == 0
        self.sent[cell] = self.sent.get(cell, 0) + 1
        client.request(Command.WRITE, cell * CELL, CELL, CommandFlag.FUA if fua else 0)
        client.send(cell_bytes(cell, self.sent[cell]))
        assert client.error() == 0
        if fua:
            self.durable[cell] = self.sent[cell]
        if step % 23 == 0:
            before = dict(self.sent)
            client.request(Command.FLUSH, 0, 0)
            assert client.error() == 0
            self.durable |= before


def cell_bytes(cell: int, number: int) -> bytes:
    """What is written to a cell: it tells, in every part, whose it is and which."""
    return struct.pack(">II", cell, number) * (CELL // 8)


def number_in(cell: int, found: bytes) -> int:
    """Which write a cell shows; 0: what the point has. Raises AssertionError for anything else."""
    if found == WANT[cell * CELL : (cell + 1) * CELL]:
        return 0
    named, number = struct.unpack_from(">II", found)
    assert named == cell
    assert found == cell_bytes(cell, number), "parts of two writes"
    return int(number)


def test_what_was_flushed_survives_kill_9_in_the_midst_of_writes(tmp_path: Path) -> None:
    """Several rounds on one overlay, with two clients that write and flush at once."""
    site = Site(tmp_path)
    disks = trees_of(store(site, BLOCKS, GEOMETRY))
    numbers: dict[int, int] = {}
    writers: list[Writer] = []
    chance = random.Random(5)
    for turn in range(6):
        with exported(site, disks, name="vm", writable=True) as export:
            with Raw(export) as client:
                client.go(structured=False)
                client.request(Command.READ, 0, GEOMETRY.size_bytes)
                assert client.error() == 0
                whole = client.exactly(GEOMETRY.size_bytes)
            shown = {cell: number_in(cell, whole[cell * CELL : (cell + 1) * CELL]) for cell in range(CELLS)}
            for writer in writers:
                for cell, number in writer.durable.items():
                    assert number <= shown[cell] <= writer.sent[cell], f"cell {cell} in round {turn}"
            numbers = {cell: number for cell, number in shown.items() if number}
            writers = [Writer(export, range(half, CELLS, 2), 10 * turn + half, own(numbers, half)) for half in (0, 1)]
            for writer in writers:
                writer.start()
            assert all(writer.began.wait(60) for writer in writers)
            time.sleep(chance.uniform(0, 0.3))  # the moment itself, not a wait for something
            export.mover.process.kill()
            for writer in writers:
                writer.join(60)
                assert not writer.is_alive()
            assert any(writer.durable for writer in writers)


def own(numbers: dict[int, int], half: int) -> dict[int, int]:
    return {cell: number for cell, number in numbers.items() if cell % 2 == half}


def test_a_collector_beside_an_export_takes_nothing_from_it(tmp_path: Path) -> None:
    """Other points are pruned and collected while one is served: records move, packs go, every byte stays."""
    site = Site(tmp_path)
    garbage = [store(site, {n: lab.block(("old", turn, n)) for n in range(20)} | BLOCKS, GEOMETRY) for turn in range(3)]
    point = store(site, BLOCKS, GEOMETRY)  # whose blocks are in packs of points that go
    with exported(site, trees_of(point), cache_bytes=16 << 20) as export, Raw(export) as client:
        client.go()
        assert nbdsh(f"print(h.pread({CELL}, 0) == bytes.fromhex('{WANT[:CELL].hex()}'))", export.uri) == ["True"]
        repository = lab.open_at(site.folder)
        for old in garbage:
            repository.tombstone(old.sid)
        found = [collect(repository) for _ in range(2)]
        assert sum(each.swept_packs for each in found), "the test collects nothing"
        assert sum(each.moved_bytes for each in found), "nothing of the point was moved"
        repository.close()
        assert client.reads(0, GEOMETRY.size_bytes) == WANT


def test_what_is_damaged_is_an_error_for_who_reads_it_and_for_nobody_else(tmp_path: Path) -> None:
    site = Site(tmp_path)
    point = store(site, BLOCKS, GEOMETRY)
    repository = lab.open_at(site.folder)
    bad = lab.block_id(BLOCKS[3])
    (home,) = repository.index.find([bad])[bad]
    repository.close()
    (path,) = (site.folder / "repository" / "packs").rglob(home.pack)
    lab.flip(path, home.offset + home.length - 3)
    with exported(site, trees_of(point)) as export, Raw(export) as client:
        client.go()
        client.request(Command.READ, 3 * lab.BLOCK, 100)
        assert client.error() == 5
        assert client.reads(0, 3 * lab.BLOCK) == WANT[: 3 * lab.BLOCK]
        assert client.reads(4 * lab.BLOCK, 20 * lab.BLOCK) == WANT[4 * lab.BLOCK :]


def test_a_reader_that_dies_ends_the_exporter_and_no_client_is_told_an_error(tmp_path: Path) -> None:
    """Its clients lose the connection, and may connect again to the next exporter: a guest sees no bad disk."""
    site = Site(tmp_path)
    point = store(site, BLOCKS, GEOMETRY)
    with exported(site, trees_of(point), remote=True) as export, Raw(export) as client:
        client.go()
        assert client.reads(0, CELL) == WANT[:CELL]
        assert export.reader is not None
        export.reader.process.kill()
        export.reader.process.wait()
        client.request(Command.READ, 12 * lab.BLOCK, CELL)
        with pytest.raises((EOFError, ConnectionError, socket.timeout)):
            client.error()
        assert export.mover.failure().retryable
