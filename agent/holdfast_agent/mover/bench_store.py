"""What a target mover does with a benchmark's records, in the place of :class:`~.store.Store`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from holdfast_agent.errors import MalformedMessage
from holdfast_agent.model.ids import HOLE, BlockId, Sid
from holdfast_agent.repository.scratch import Scratch
from holdfast_agent.sealing.records import Pieces, parse_header
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import BenchmarkSpec, BenchmarkStage, PackRef, TargetSpec

from .conversation import MAX_OFFER, BeginBackup, Done, Ids, Offer, Run, count_blocks, split_ids
from .stages import StageClock
from .store import Store, open_repository


def bench_store(spec: BenchmarkSpec, host: MoverHost, clock: StageClock) -> Store | NoStore:
    """What the stage needs."""
    return ScratchStore(spec, host, clock) if spec.stage is BenchmarkStage.STORE else NoStore(spec, host)


class ScratchStore(Store):
    """The real thing, in a throw-away repository on the same storage."""

    def __init__(self, spec: BenchmarkSpec, host: MoverHost, clock: StageClock) -> None:
        nowhere = TargetSpec(task_id=spec.task_id, secret=spec.secret, repository=spec.repository, sid=Sid(""), mover=1)
        super().__init__(nowhere, host, clock)
        self._scratch: Scratch | None = None

    def open(self) -> None:
        root = Path(self._spec.repository)
        open_repository(str(root), self._host).close()  # it must be one, and ours to use
        self._scratch = scratch = Scratch(root.resolve())
        self._spec = msgspec.structs.replace(self._spec, repository=str(scratch.path), sid=scratch.sid)
        self._host = msgspec.structs.replace(self._host, cache_dir=str(scratch.cache_dir), identity=None)
        super().open()

    def close(self, keep: bool) -> None:
        try:
            super().close(False)
        finally:
            if self._scratch is not None:
                self._scratch.close()


class NoStore:
    """Wants all records and drops them (SEND), or wants none (READ)."""

    def __init__(self, spec: BenchmarkSpec, host: MoverHost) -> None:
        self._spec = spec
        self._host = host
        self._blocks: BeginBackup | None = None

    def open(self) -> None:
        open_repository(self._spec.repository, self._host).close()

    def begin(self, message: BeginBackup) -> tuple[Run, ...]:
        self._blocks = message
        return ()

    def page(self, first: int, blocks: int) -> tuple[Ids, list[BlockId]]:
        return Ids(first, ()), []

    def offer(self, message: Offer, payload: memoryview) -> bytes:
        if self._blocks is None:
            raise MalformedMessage(peer="the other mover", reason="the backup has not begun")
        ids = split_ids(payload, count_blocks(message.blocks, self._blocks.geometry), MAX_OFFER)
        return bytes([self._spec.stage is BenchmarkStage.SEND]) * len(ids)

    def holes(self, blocks: Run) -> None:
        """Nothing is kept."""

    def record(self, record: Pieces) -> int:
        parse_header(record[0])
        return 0

    def finish(self, message: Done) -> tuple[BlockId, list[PackRef]]:
        return HOLE, []

    def close(self, keep: bool) -> None:
        """Nothing is open."""
