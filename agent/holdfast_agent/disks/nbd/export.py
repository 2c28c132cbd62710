"""An export over several connections, which are made anew where that is safe."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable

from holdfast_agent.disks import patience
from holdfast_agent.errors import DiskChanged, DiskShrunk, DiskUnreadable

from .connection import Connection
from .protocol import ExportFlag, NbdConnectionLost
from .requests import Request

Dial = Callable[[float | None], Connection]
"""Makes one connection within so many seconds, or the usual time. Raises :class:`DiskError`."""

_AGAIN_S = 10.0
_MAX_RECONNECTIONS = 100  # a server that dies so often is not worth waiting for


class NbdExport:
    """Thread-safe. ``facts`` are those of the first connection; all others must be alike."""

    def __init__(self, dial: Dial, url: str, connections: int, *, resume: bool) -> None:
        """``connections``: at most so many, one where the server does not allow several.

        ``resume``: replace connections that are lost and ask again. Right for reads. Never for writes: what a server
        had answered but not yet made durable may be lost with it, and nobody would know.
        """
        self.url = url
        self._dial = dial
        self._pauses_s = patience.PAUSES_S if resume else ()
        self._closed = threading.Event()
        self._guard = threading.Lock()
        self._lost: list[Connection] = []
        first = dial(None)
        self.facts = first.export
        self._connections = [first]
        try:
            if self.facts.flags & ExportFlag.MULTI_CONN:
                self._add(connections - 1)
        except BaseException:
            self.close()
            raise

    def run(self, requests: Callable[[Connection], Iterable[Request]]) -> None:
        """Carry out requests on one connection; ``requests`` makes them, anew for each attempt.

        Raises :class:`NbdRequestError`, :class:`NbdConnectionLost`; of connections that are made anew
        :class:`DiskShrunk`, :class:`DiskChanged`, and what dialling raises but for :class:`DiskUnreadable`.
        """
        for pause_s in self._pauses_s:
            connection = self._least_busy()
            try:
                return connection.run(requests(connection))
            except NbdConnectionLost:
                if self._closed.wait(pause_s):
                    raise
            with contextlib.suppress(DiskUnreadable):  # the next attempt tells why
                self._replace(connection)
        connection = self._least_busy()
        return connection.run(requests(connection))

    def close(self) -> None:
        """End all connections, after the last request. Idempotent, never raises."""
        self._closed.set()
        for connection in (*self._connections, *self._lost):
            connection.close()

    def _least_busy(self) -> Connection:
        return min(self._connections, key=lambda connection: connection.in_flight)

    def _add(self, count: int) -> None:
        # A server may say that it allows several and still take one only: then one has to do.
        with contextlib.suppress(DiskUnreadable):
            for _ in range(count):
                self._connections.append(self._checked(self._dial(_AGAIN_S)))

    def _replace(self, connection: Connection) -> None:
        """By a new one, unless another thread has done so."""
        with self._guard:
            if connection in self._connections and len(self._lost) < _MAX_RECONNECTIONS:
                fresh = self._checked(self._dial(_AGAIN_S))
                self._connections[self._connections.index(connection)] = fresh
                self._lost.append(connection)  # others may still be coming out of it: closed at the end

    def _checked(self, connection: Connection) -> Connection:
        """The same export as before, as far as a server tells that."""
        was, found = self.facts, connection.export
        if found._replace(contexts={}) == was._replace(contexts={}) and set(found.contexts.values()) == set(
            was.contexts.values()
        ):
            return connection
        connection.close()
        if found.size_bytes < was.size_bytes:
            raise DiskShrunk(url=self.url, found_bytes=found.size_bytes, expected_bytes=was.size_bytes)
        raise DiskChanged(url=self.url, reason="the server exports something else under its name now")
