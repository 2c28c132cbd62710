"""Calls that may be given up: each is made in a thread of its own kind, which a plugin that hangs may keep.

Python cannot end a thread. What hangs keeps its thread until the process ends; the caller goes on without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class NotInTime(Exception):
    """The call has not come back. It may still do what it was asked for, later."""


class Patience:
    """Threads for calls, used again and again. Thread-safe; they are daemons, and so never keep the process alive.

    A thread that came back in time lives as long as the process: programs that a plugin starts with
    ``PR_SET_PDEATHSIG`` end with the thread that started them, so none may end between two calls.
    """

    def __init__(self) -> None:
        self._idle: list[_Caller] = []
        self._lock = threading.Lock()

    def call(self, function: Callable[[], T], limit_s: float) -> T:
        """What ``function`` returns or raises. Raises :class:`NotInTime` when it has done neither after ``limit_s``."""
        with self._lock:
            caller = self._idle.pop() if self._idle else _Caller()
        outcome = caller.begin(function)
        done, _ = wait([outcome], limit_s)
        if not done:
            caller.end()  # as soon as it comes back, if ever
            raise NotInTime
        with self._lock:
            self._idle.append(caller)
        result: T = outcome.result()
        return result


class _Caller:
    """One thread that makes calls one after the other until it is told to end."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="plugin-call", daemon=True).start()

    def begin(self, function: Callable[[], Any]) -> Future[Any]:
        outcome: Future[Any] = Future()
        self._orders.put((function, outcome))
        return outcome

    def end(self) -> None:
        self._orders.put(None)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            function, outcome = order
            try:
                outcome.set_result(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller, in whose thread it is raised again
                outcome.set_exception(error)
            del order, function, outcome  # what a call held is let go before the next one comes
