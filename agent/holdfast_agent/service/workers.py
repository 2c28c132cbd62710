"""Blocking work off the loop: a bounded pool of threads whose results come back into the loop's thread."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from holdfast_agent.errors import HoldfastError, InternalError, Locked

T = TypeVar("T")

_log = logging.getLogger(__name__)


class BlockingWorkers:
    """``threads`` threads, and at most ``limit`` pieces of work waiting or running.

    :meth:`run` and :meth:`finish` belong to the loop's thread, :meth:`post` to any. The loop polls :attr:`wake_fd` and
    calls :meth:`finish` when it is readable.
    """

    def __init__(self, name: str, threads: int, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._posted: deque[Callable[[], None]] = deque()  # append and popleft are atomic
        self._under_way = 0
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def run(self, work: Callable[[], T], settle: Callable[[T | HoldfastError], None]) -> None:
        """Do ``work`` in a thread, then call ``settle`` with its result or error in the loop's thread.

        Raises :class:`Locked` (retryable) when too much is waiting already.
        """
        if self._under_way >= self._limit:
            raise Locked(what=f"the agent's {self._name}", holder=f"{self._limit} other requests")
        self._enqueue(work, settle)

    def run_always(self, work: Callable[[], T], settle: Callable[[T | HoldfastError], None]) -> None:
        """The same without the bound: for the clean-up that the agent itself owes."""
        self._enqueue(work, settle)

    def post(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called in the loop's thread; from any thread."""
        self._posted.append(callback)
        os.eventfd_write(self.wake_fd, 1)

    def finish(self) -> None:
        """Call what was posted since the last time."""
        os.eventfd_read(self.wake_fd)
        while self._posted:
            self._posted.popleft()()

    def close(self) -> None:
        """Wait for what runs and drop what waits; nothing is settled any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        os.close(self.wake_fd)

    def _enqueue(self, work: Callable[[], T], settle: Callable[[T | HoldfastError], None]) -> None:
        def settled(outcome: T | HoldfastError) -> None:
            self._under_way -= 1
            settle(outcome)

        def body() -> None:
            outcome = guarded(self._name, work)
            self.post(lambda: settled(outcome))

        self._under_way += 1
        self._pool.submit(body)


def guarded(where: str, work: Callable[[], T]) -> T | HoldfastError:
    """The result of ``work``, or its error as a typed one: the boundary behind which a defect is data."""
    try:
        return work()
    except HoldfastError as error:
        return error
    except Exception as error:  # noqa: BLE001 - task boundary: the manager must get an answer, the agent must live on
        _log.exception("defect in %s", where)
        return InternalError(kind=type(error).__name__, where=where, reason=str(error))
