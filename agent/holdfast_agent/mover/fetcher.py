"""Fetching records by their ids from a reader mover, beside whatever else a mover does.

A thread of its own owns the connection. Whoever wants a record asks for it early and waits late; that bounds the
memory, too: nothing comes that was not asked for, so credit is given back as soon as a record is here.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from holdfast_agent.channel.data_connection import DataConnection
from holdfast_agent.channel.data_connector import DataConnector
from holdfast_agent.errors import Cancelled, ConnectionLost, HoldfastError, InternalError, MalformedMessage, from_record
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.records import Pieces, parse_header
from holdfast_agent.wire.movers import MoverHost
from holdfast_agent.wire.specs import OriginSpec

from .conversation import (
    MAX_FETCH,
    AnyMessage,
    Check,
    Done,
    GaveUp,
    Record,
    Stored,
    Unreadable,
    decode,
    encode,
    split_ids,
)
from .role import unexpected

_STEP_S = 0.5


class NoWholeRecord(Exception):
    """The repository has no (further) record that could be this one. Who asked for it knows what it was to be."""


class Fetcher:
    """Connects when it is made. Thread-safe; closed once by its owner."""

    def __init__(self, origin: OriginSpec, host: MoverHost) -> None:
        self.peer = ""
        """The endpoint of the reader, once it is connected."""
        self._origin = origin
        self._host = host
        self._lock = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asked: deque[tuple[list[BlockId], int]] = deque()
        self._waiting: dict[BlockId, list[Future[Pieces]]] = {}
        self._failure: HoldfastError | None = None
        self._closing = False
        self._aborting = False
        self._thread = threading.Thread(target=self._run, name="fetcher", daemon=True)
        self._thread.start()

    def fetch(self, ids: Sequence[BlockId], refused: int = 0) -> list[Future[Pieces]]:
        """Ask for records; each future gives one as it is stored, unproved, or raises why it cannot be had.

        ``refused``: so many records came for these ids that were not what they say (the conversation's ``Check``).
        What is under way is not asked for again. A future always ends: with the connection at the latest, whose errors
        (``ConnectionLost``, the reader's own) it raises then, or :class:`NoWholeRecord`.
        """
        futures: list[Future[Pieces]] = []
        new: list[BlockId] = []
        with self._lock:
            for record_id in ids:
                future: Future[Pieces] = Future()
                futures.append(future)
                if self._failure is not None:
                    future.set_exception(self._failure)
                elif record_id in self._waiting:
                    self._waiting[record_id].append(future)
                else:
                    self._waiting[record_id] = [future]
                    new.append(record_id)
            self._asked += [(new[at : at + MAX_FETCH], refused) for at in range(0, len(new), MAX_FETCH)]
        if new:
            os.eventfd_write(self._wake_fd, 1)
        return futures

    def close(self, orderly: bool, timeout_s: float) -> bool:
        """End the connection; whether the thread ended in time. ``orderly``: all that was wanted has come.

        Whoever still waits gets :class:`Cancelled`.
        """
        self._closing, self._aborting = True, not orderly
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        error: HoldfastError = Cancelled(reason="the transfer ended")
        try:
            connection = self._connect()
            if connection is not None:
                self._serve(connection)
        except HoldfastError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - thread boundary: who waits must learn of it
            error = InternalError(kind=type(failure).__name__, where="the fetcher", reason=str(failure))
        self._fail(error)

    def _connect(self) -> DataConnection | None:
        connector = DataConnector(
            self._origin.endpoints,
            self._origin.secret,
            timeout_s=self._host.connect_timeout_s,
            timeouts=self._host.link,
        )
        try:
            while not self._closing:
                connection = connector.poll(_STEP_S, (self._wake_fd,))
                self._drain()
                if connection is not None:
                    self.peer = connection.peer
                    return connection
        except BaseException:
            connector.close()
            raise
        connector.close()
        return None

    def _serve(self, connection: DataConnection) -> None:
        try:
            while not self._closing:
                self._ask(connection)
                connection.wait(_STEP_S, (self._wake_fd,))
                self._drain()
                self._receive(connection)
            if self._aborting or self._waiting:
                connection.abort()
            else:
                self._part(connection)
        except BaseException:
            connection.abort()
            raise

    def _part(self, connection: DataConnection) -> None:
        """Say that all was had, and wait until the reader has heard it: its own end depends on that."""
        connection.send(encode(Done()))
        deadline = time.monotonic() + self._host.link.stall_s + self._host.link.resume_s
        while True:
            connection.wait(_STEP_S)
            while (incoming := connection.receive()) is not None:
                if isinstance(decode(incoming.body), Stored):
                    connection.close()
                    return
            if time.monotonic() > deadline:
                raise ConnectionLost(peer=connection.peer, reason="it did not say goodbye")

    def _drain(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return

    def _ask(self, connection: DataConnection) -> None:
        with self._lock:
            asked = list(self._asked)
            self._asked.clear()
        for ids, refused in asked:
            connection.send(encode(Check(refused)), ids)

    def _receive(self, connection: DataConnection) -> None:
        while (incoming := connection.receive()) is not None:
            connection.release(incoming.cost_bytes)
            self._take(decode(incoming.body), incoming.payload)
        connection.check_alive()

    def _take(self, message: AnyMessage, payload: memoryview) -> None:
        if isinstance(message, Record):
            for future in self._answered(parse_header(message.head).id):
                future.set_result((message.head, payload))
        elif isinstance(message, Unreadable):
            for future in self._answered(split_ids(payload, 1, 1)[0]):
                future.set_exception(NoWholeRecord(message.reason))
        elif isinstance(message, GaveUp):
            raise from_record(message.error)
        else:
            raise unexpected(message)

    def _answered(self, record_id: BlockId) -> list[Future[Pieces]]:
        with self._lock:
            futures = self._waiting.pop(record_id, None)
        if futures is None:
            raise MalformedMessage(peer="the other mover", reason="a record that was not asked for")
        return futures

    def _fail(self, error: HoldfastError) -> None:
        with self._lock:
            self._failure = error
            waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                future.set_exception(error)
