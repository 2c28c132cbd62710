"""Decoded blocks in memory: bounded in bytes, each fetched and proved once however many ask for it at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from holdfast_agent.model.ids import BlockId

Load = Callable[[], bytes]
"""Fetches and proves one block, in a thread of the cache's. What it raises, everybody who waits for it gets."""


class BlockCache:
    """The blocks that were used last, by their ids: equal blocks of several disks are one. Thread-safe.

    ``most_bytes`` bounds what is kept. What is under way comes on top, bounded by the threads that load and, for what
    is only read ahead, by :attr:`room`.
    """

    def __init__(self, most_bytes: int, threads: int) -> None:
        self._most_bytes = most_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="block")
        self._lock = threading.Lock()
        self._kept: OrderedDict[BlockId, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[BlockId, Future[bytes]] = {}

    @property
    def kept_bytes(self) -> int:
        return self._kept_bytes

    def peek(self, block_id: BlockId) -> bytes | None:
        """The block if it is here now."""
        with self._lock:
            plain = self._kept.get(block_id)
            if plain is not None:
                self._kept.move_to_end(block_id)
            return plain

    def room(self, block_bytes: int) -> int:
        """How many more blocks may be read ahead now: half of the cache at most is on its way."""
        return self._most_bytes // (2 * block_bytes) - len(self._coming)

    def get(self, block_id: BlockId, load: Load) -> Future[bytes]:
        """The block, from here, from whoever loads it already, or by ``load``. The future always ends."""
        with self._lock:
            future = self._coming.get(block_id)
            if future is not None:
                return future
            future = Future()
            plain = self._kept.get(block_id)
            if plain is not None:
                self._kept.move_to_end(block_id)
                future.set_result(plain)
                return future
            self._coming[block_id] = future
        self._pool.submit(partial(self._load, block_id, future, load))
        return future

    def close(self) -> None:
        """Wait for what is being loaded, let go of the rest; whoever waits for that gets ``CancelledError``."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for future in self._coming.values():
            future.cancel()
        self._coming.clear()
        self._kept.clear()

    def _load(self, block_id: BlockId, future: Future[bytes], load: Load) -> None:
        try:
            plain = load()
        except BaseException as error:  # noqa: BLE001 - thread boundary: who waits must learn of it
            with self._lock:
                del self._coming[block_id]
            future.set_exception(error)
            return
        with self._lock:
            del self._coming[block_id]
            self._keep(block_id, plain)
        future.set_result(plain)

    def _keep(self, block_id: BlockId, plain: bytes) -> None:
        self._kept[block_id] = plain
        self._kept_bytes += len(plain)
        while self._kept_bytes > self._most_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
