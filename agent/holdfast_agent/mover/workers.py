"""The mover's threads: work goes in from the main thread, and results come back to it.

Only the main thread owns sockets and state; a task is a function of its arguments. Results are announced on a
descriptor, so that the main thread waits for the network and for its workers at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Result(NamedTuple):
    then: Callable[[Any], None]
    value: Any
    error: BaseException | None


class Workers:
    """A fixed pool. With one thread its tasks run in the order of their submission."""

    def __init__(self, threads: int, name: str) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._tasks: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Callable[[Any], None]] | None]
        self._tasks = queue.SimpleQueue()
        self._results: deque[_Result] = deque()
        self._open = 0
        # Daemons: a thread that hangs in a system call (a dead NFS server) must not keep the process alive.
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything was submitted whose result has not been taken."""
        return self._open > 0

    def submit(self, then: Callable[[T], None], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run ``function(*args)`` in a worker; :meth:`take` calls ``then`` with what it returned. Main thread only."""
        if kwargs:
            raise TypeError("tasks take positional arguments only")
        self._open += 1
        self._tasks.put((function, args, then))

    def take(self) -> None:
        """Hand over all results that are there. Main thread only. Raises the error of the first task that failed."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        while self._results:
            result = self._results.popleft()
            self._open -= 1
            if result.error is not None:
                raise result.error
            result.then(result.value)

    def close(self, timeout_s: float, last: Callable[[], object] | None = None) -> bool:
        """Drop what has not begun, wait for what has, then run ``last`` in a worker; whether all ended in time."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        if last is not None:
            self._tasks.put((last, (), _ignore))
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            function, args, then = task
            try:
                result = _Result(then, function(*args), None)
            except BaseException as error:  # noqa: BLE001 - task boundary: raised again in the main thread
                result = _Result(then, None, error)
            self._results.append(result)
            del task, function, args, then, result  # so that an idle thread keeps no block alive
            os.eventfd_write(self.fd, 1)


def _ignore(_result: object) -> None:
    """What becomes of the last task is of no more interest."""
