"""The repository's side of a backup: everything that touches the repository, in one thread of its own.

The target mover's main thread owns the socket and the heartbeats; look-ups, appends and fsyncs happen here, in the
order in which the messages came.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from holdfast_agent.errors import HoldfastError, MalformedMessage, RepositoryDenied
from holdfast_agent.model.ids import HOLE, BlockId
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.tree import TreeBuilder, TreeReader
from holdfast_agent.repository.writer import SessionWriter
from holdfast_agent.sealing.records import Pieces, RecordKind, check_pieces
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import PackRef, TargetSpec

from .conversation import MAX_LOST_RUNS, MAX_OFFER, BeginBackup, Done, Ids, Offer, Run, count_blocks, runs_of, split_ids
from .pages import PageCutter
from .stages import StageClock


def open_repository(path: str, host: MoverHost) -> Repository:
    """Open a repository below an allowed directory. Raises :class:`RepositoryDenied` and errors of the repository."""
    real = Path(path).resolve()
    if not any(real.is_relative_to(Path(allowed).resolve()) for allowed in host.repository_paths):
        raise RepositoryDenied(path=path, reason="it lies outside the directories of repository.paths")
    return Repository.open(real, Path(host.cache_dir), host=host.identity)


class Store:
    """Used by one worker thread only."""

    def __init__(self, spec: TargetSpec, host: MoverHost, clock: StageClock) -> None:
        self._spec = spec
        self._host = host
        self._clock = clock
        self._expected: set[BlockId] = set()
        self._offered = self._holes = self._records = 0
        self._writer: SessionWriter | None = None
        self._tree: TreeBuilder | None = None
        self._repository: Repository | None = None

    def open(self) -> None:
        """Open the repository and the session, before anything is promised. Raises errors of the repository."""
        self._repository = open_repository(self._spec.repository, self._host)
        self._writer = SessionWriter(self._repository, self._spec.sid, self._spec.mover)

    def begin(self, message: BeginBackup) -> tuple[Run, ...]:
        """Begin the tree; the runs of the base's blocks that must be stored anew."""
        repository, writer = self._ready()
        self._geometry = message.geometry
        base: TreeReader | None = None
        if message.base_root is not None and message.base_geometry is not None:
            if message.base_geometry.block_log2 != message.geometry.block_log2:
                raise MalformedMessage(peer="the other mover", reason="the base has another block size")
            base = TreeReader(repository.reader(), message.base_root, message.base_geometry)
        self._base = base
        self._pages = PageCutter(base.geometry.blocks, base.ids) if base else PageCutter(0, lambda _first: iter(()))
        self._tree = TreeBuilder(message.geometry, base, Path(self._host.cache_dir))
        lost = runs_of(list(self._tree.unsafe_blocks(writer)))
        whole_base = ((0, min(base.geometry.blocks, message.geometry.blocks)),) if base else ()
        return lost if len(lost) <= MAX_LOST_RUNS else whole_base

    def page(self, first: int, blocks: int) -> tuple[Ids, list[BlockId]]:
        """One page of the base's ids."""
        with self._clock:
            return self._pages.page(first, blocks)

    def offer(self, message: Offer, payload: memoryview) -> bytes:
        """Put ids in their places; for each a byte that says whether its record must come."""
        tree, writer = self._transfer()
        with self._clock:
            ids = split_ids(payload, count_blocks(message.blocks, self._geometry), MAX_OFFER)
            if HOLE in ids:
                raise MalformedMessage(peer="the other mover", reason="a hole is offered as data")
            places = (block for first, count in message.blocks for block in range(first, first + count))
            for block, block_id in zip(places, ids, strict=True):
                tree.set(block, block_id)
            wanted = bytearray(len(ids))
            for place, (block_id, missing) in enumerate(zip(ids, writer.missing(ids), strict=True)):
                # What was asked for already will come, from this offer or one before.
                if missing and block_id not in self._expected:
                    self._expected.add(block_id)
                    wanted[place] = 1
            self._offered += len(ids)
            return bytes(wanted)

    def holes(self, blocks: Run) -> None:
        """These blocks are zeros now."""
        tree, _writer = self._transfer()
        with self._clock:
            self._holes += count_blocks((blocks,), self._geometry)
            for block in range(blocks[0], sum(blocks)):
                tree.set(block, HOLE)

    def record(self, record: Pieces) -> int:
        """Append a record that was asked for; the bytes that it takes. Raises for one that was not."""
        _tree, writer = self._transfer()
        with self._clock:
            header = check_pieces(record)
            if header.kind != RecordKind.DATA or header.id not in self._expected:
                raise MalformedMessage(peer="the other mover", reason="a record that was not asked for")
            if header.plain_length != self._geometry.block_bytes:
                raise MalformedMessage(peer="the other mover", reason="a record of another block size")
            writer.append_checked(header, record)
            self._expected.discard(header.id)
            self._records += 1
            return header.record_length

    def finish(self, message: Done) -> tuple[BlockId, list[PackRef]]:
        """Store the tree and make all durable and known. Nothing is committed by this."""
        tree, writer = self._transfer()
        told = (message.offered, message.holes, message.records)
        if self._expected or told != (self._offered, self._holes, self._records):
            raise MalformedMessage(peer="the other mover", reason="it ended before it had sent all")
        if message.offered + message.holes + message.left != self._geometry.blocks:
            raise MalformedMessage(peer="the other mover", reason="it did not account for every block of the disk")
        with self._clock:
            return tree.finish(writer), writer.publish()

    def close(self, keep: bool) -> None:
        """Close all. ``keep``: publish what is whole first, so that a retry after a lost connection need not send it
        again; without a point these blocks are mere candidates for deduplication until they are collected."""
        if self._writer is not None:
            with self._writer, contextlib.suppress(HoldfastError):
                if keep and self._records:
                    self._writer.publish()
        if self._tree is not None:
            self._tree.close()
        if self._repository is not None:
            self._repository.close()

    def _ready(self) -> tuple[Repository, SessionWriter]:
        if self._repository is None or self._writer is None:
            raise MalformedMessage(peer="the other mover", reason="the repository is not open")
        return self._repository, self._writer

    def _transfer(self) -> tuple[TreeBuilder, SessionWriter]:
        if self._tree is None or self._writer is None:
            raise MalformedMessage(peer="the other mover", reason="the backup has not begun")
        return self._tree, self._writer
