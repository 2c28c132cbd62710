"""Where an export's sealed records come from: the repository on this host, or a reader mover on another."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from holdfast_agent.errors import HoldfastError, RepositoryError
from holdfast_agent.model.ids import BlockId
from holdfast_agent.mover.fetcher import Fetcher, NoWholeRecord
from holdfast_agent.mover.store import open_repository
from holdfast_agent.mover.whole import Records
from holdfast_agent.repository.quick_reads import QuickReader
from holdfast_agent.sealing.records import Pieces, split_record
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import ExporterSpec, OriginSpec

_FETCHER_CLOSE_S = 2.0
REMOTE_THREADS = 16
"""That wait for records of another host: so many are on their way at a time."""


class Near(Protocol):
    """Records of this host, for who opens them by their seal; :class:`QuickReader` is one. Thread-safe."""

    def read(self, record_id: BlockId) -> Pieces | None:
        """What stands where the record should, unproved; overwritten by the thread's next call. None: ask elsewhere."""

    def forget(self, record_id: BlockId) -> None:
        """That was not the record."""


class OpenRecords(Records, Protocol):
    """Records with an end. ``threads``: how many of them may be waited for at once. ``near``: for small reads of those
    that are on this host. ``lost``: why no more will come."""

    threads: int
    near: Near | None
    lost: HoldfastError | None

    def close(self) -> None:
        """After the last fetch. Never raises."""


class LocalRecords:
    """Reads in the thread that asks.

    Nothing is pinned: an export may stay for days, and a collector would wait for it. Its manager keeps the point from
    being pruned meanwhile, and a record that a collector moves is found where it went.
    """

    near: Near | None
    lost: HoldfastError | None = None

    def __init__(self, spec: ExporterSpec, host: MoverHost) -> None:
        """Raises errors of the repository."""
        self.threads = max(2, host.workers)
        with contextlib.ExitStack() as stack:
            repository = open_repository(spec.repository, host)
            stack.callback(repository.close)
            self._reader = repository.reader()
            self.near = QuickReader(repository.store, self._reader)
            self._open = stack.pop_all()

    def fetch(self, ids: Sequence[BlockId], refused: int = 0) -> list[Future[Pieces]]:
        return [self._fetch(record_id, refused) for record_id in ids]

    def close(self) -> None:
        with contextlib.suppress(RepositoryError):
            self._open.close()

    def _fetch(self, record_id: BlockId, refused: int) -> Future[Pieces]:
        future: Future[Pieces] = Future()
        try:
            read = self._reader.read_other(record_id, refused) if refused else self._reader.read_record(record_id)
        except RepositoryError as error:
            future.set_exception(NoWholeRecord(error.text))
        else:
            future.set_result(split_record(read))
        return future


class RemoteRecords:
    """Asks a reader mover on the repository's host."""

    threads = REMOTE_THREADS
    near: Near | None = None
    lost: HoldfastError | None = None

    def __init__(self, spec: ExporterSpec, host: MoverHost) -> None:
        self._fetcher = Fetcher(OriginSpec(secret=spec.secret, endpoints=spec.endpoints, keys=spec.keys), host)

    def fetch(self, ids: Sequence[BlockId], refused: int = 0) -> list[Future[Pieces]]:
        futures = self._fetcher.fetch(ids, refused)
        for future in futures:
            future.add_done_callback(self._look)
        return futures

    def close(self) -> None:
        self._fetcher.close(orderly=True, timeout_s=_FETCHER_CLOSE_S)

    def _look(self, future: Future[Pieces]) -> None:
        error = future.exception()
        if isinstance(error, HoldfastError):
            self.lost = error


def open_records(spec: ExporterSpec, host: MoverHost) -> OpenRecords:
    """Raises errors of the repository; those of a connection come with the first record."""
    if spec.repository:
        return LocalRecords(spec, host)
    return RemoteRecords(spec, host)
