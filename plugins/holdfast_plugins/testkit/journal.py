"""Journals in memory, for tests of drivers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec


class Obligation(msgspec.Struct, frozen=True):
    """What a driver promised: the arguments for its ``fulfil``."""

    kind: str
    data: dict[str, str]


class MemoryJournal:
    """A ``Journal`` that a test can look into. ``on_promise`` is called with each promise, before it is kept.

    ``kept`` has every promise ever made, ``open`` those that stand.
    """

    def __init__(self, on_promise: Callable[[Obligation], None] | None = None) -> None:
        self.open: dict[int, Obligation] = {}
        self.kept: list[Obligation] = []
        self._on_promise = on_promise
        self._lock = threading.Lock()

    def promise(self, kind: str, data: dict[str, str]) -> int:
        # As the real journal does, through bytes: what cannot be stored must not pass here either.
        obligation = msgspec.json.decode(msgspec.json.encode(Obligation(kind, data)), type=Obligation)
        if self._on_promise is not None:
            self._on_promise(obligation)
        with self._lock:
            self.kept.append(obligation)
            self.open[len(self.kept)] = obligation
            return len(self.kept)

    def strike(self, number: int) -> None:
        with self._lock:
            self.open.pop(number, None)


class SuddenDeath(BaseException):
    """Stands for the end of the process at that very point."""


class MortalJournal(MemoryJournal):
    """The journal of a process that dies at its ``moment``-th moment, counted from 0.

    Before and after each promise and each strike are moments. A dead process writes no more: every later call raises
    :class:`SuddenDeath` too, and changes nothing. ``died``: whether the moment ever came.
    """

    def __init__(self, moment: int) -> None:
        super().__init__()
        self._moments_left = moment
        self.died = False

    def promise(self, kind: str, data: dict[str, str]) -> int:
        self._pass_moment()
        number = super().promise(kind, data)
        self._pass_moment()
        return number

    def strike(self, number: int) -> None:
        self._pass_moment()
        super().strike(number)
        self._pass_moment()

    def _pass_moment(self) -> None:
        if self.died or self._moments_left == 0:
            self.died = True
            raise SuddenDeath
        self._moments_left -= 1
