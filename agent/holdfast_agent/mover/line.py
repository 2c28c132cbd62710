"""What movers need of the line to each other, whether the other one is in another process or in this one."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from holdfast_agent.channel.data_connection import Incoming
from holdfast_agent.channel.data_pacing import Pacer
from holdfast_agent.channel.data_records import Buffer


class Peer(Protocol):
    """The other mover, as a role sees it. Each method does what it does in
    :class:`~holdfast_agent.channel.data_connection.DataConnection`."""

    broken: bool

    @property
    def writable(self) -> bool: ...

    @property
    def throttled(self) -> bool: ...

    @property
    def congested(self) -> bool: ...

    @property
    def under_way(self) -> bool: ...

    def limit(self, bytes_per_s: int | None) -> None: ...

    def send(
        self, body: Buffer, payload: Iterable[Buffer] = (), *, ciphertext: Buffer = b"", spread: bool = False
    ) -> int: ...

    def release(self, cost_bytes: int) -> None: ...

    def confirm(self) -> None: ...


class Line(Peer, Protocol):
    """The same with what the loop needs of it that drives a role."""

    resumed: int

    @property
    def resent_bytes(self) -> int: ...

    def wait(self, timeout_s: float, fds: Iterable[int] = ()) -> None: ...

    def receive(self) -> Incoming | None: ...

    def check_alive(self) -> None: ...


_WINDOW_BYTES = 8 << 20  # no network to keep busy: enough that neither side waits for the other's thread


class LocalLine:
    """One end of a line within this process; both belong to its main thread.

    Messages are handed over as they are, neither copied nor sealed; credit and limits hold as they do on the network,
    but for the parts that a limit cuts messages into there: here a message passes whole, after its time.
    """

    broken = False
    congested = under_way = False
    """No network lies between: whoever waits here waits for the other role."""
    resumed = 0
    resent_bytes = 0

    def __init__(self, window_bytes: int, clock: Callable[[], float]) -> None:
        self._credit_bytes = window_bytes
        self._pacer = Pacer(clock)
        self._leaving: list[Incoming] = []
        self._inbox: deque[Incoming] = deque()
        self._other = self

    @classmethod
    def pair(
        cls, window_bytes: int = _WINDOW_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> tuple[LocalLine, LocalLine]:
        """Both ends of a new line."""
        one, other = cls(window_bytes, clock), cls(window_bytes, clock)
        one._other, other._other = other, one
        return one, other

    @property
    def writable(self) -> bool:
        return self._credit_bytes > 0 and not self.throttled

    @property
    def throttled(self) -> bool:
        return bool(self._leaving)

    def limit(self, bytes_per_s: int | None) -> None:
        self._pacer.change(bytes_per_s)
        self._push()

    def send(
        self, body: Buffer, payload: Iterable[Buffer] = (), *, ciphertext: Buffer = b"", spread: bool = False
    ) -> int:
        bulk = memoryview(ciphertext if len(ciphertext) else b"".join(payload))
        cost_bytes = len(body) + len(bulk)
        self._credit_bytes -= cost_bytes
        self._pacer.spent(cost_bytes)
        self._leaving.append(Incoming(memoryview(body), bulk, cost_bytes))
        self._push()
        return cost_bytes

    def receive(self) -> Incoming | None:
        return self._inbox.popleft() if self._inbox else None

    def release(self, cost_bytes: int) -> None:
        self._other._credit_bytes += cost_bytes

    def confirm(self) -> None:
        """What was said has come at once."""

    def wait(self, timeout_s: float, fds: Iterable[int] = ()) -> None:
        delays_s = (self._push(), self._other._push())
        if not (self._inbox or self._other._inbox):
            select.select(list(fds), [], [], min(timeout_s, *(delay_s or timeout_s for delay_s in delays_s)))

    def check_alive(self) -> None:
        """It lives as long as we do."""

    def _push(self) -> float:
        """Let go what the limit lets pass; the seconds until it lets the rest pass."""
        delay_s = self._pacer.delay_s() if self._leaving else 0.0
        if not delay_s:
            self._other._inbox.extend(self._leaving)
            self._leaving.clear()
        return delay_s
