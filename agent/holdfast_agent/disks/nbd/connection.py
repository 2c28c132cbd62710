"""The second phase of a connection: requests of many threads at once."""

from __future__ import annotations

import contextlib
import errno
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable

from . import protocol
from .negotiation import Export
from .protocol import Command, NbdConnectionLost, NbdProtocolError, NbdRequestError
from .requests import Request
from .stream import Stream

_IN_FLIGHT = 8
"""Requests that one thread has on its way at a time."""
_GOODBYE_S = 1.0


class Connection:
    """Thread-safe. There is no thread of its own: whoever waits for a reply receives for all until it has its own."""

    def __init__(self, stream: Stream, export: Export, timeout_s: float) -> None:
        """Takes over a negotiated stream. ``timeout_s``: for each request, from sending to its whole reply."""
        self.export = export
        self._stream = stream
        self._timeout_s = timeout_s
        self._sending = threading.Lock()
        self._changed = threading.Condition()  # guards what follows
        self._receiving = False
        self._lost = ""
        self._cookie = 0
        self._requests: dict[int, Request] = {}

    @property
    def in_flight(self) -> int:
        """Requests on their way; a hint for choosing between connections."""
        return len(self._requests)

    def run(self, requests: Iterable[Request]) -> None:
        """Carry out requests, several at a time; when this returns or raises nobody touches their buffers any more.

        Raises :class:`NbdRequestError` for the first that the server refused, :class:`NbdConnectionLost`.
        """
        flying: deque[Request] = deque()
        refused = 0
        for request in requests:
            if refused:
                break
            self._send(request)
            flying.append(request)
            if len(flying) == _IN_FLIGHT:
                refused = self._wait(flying.popleft())
        for request in flying:
            refused = self._wait(request) or refused
        if refused:
            raise NbdRequestError(refused)

    def close(self) -> None:
        """Say goodbye as far as that works. After the last request; idempotent, never raises."""
        if not self._lost:
            with contextlib.suppress(OSError):
                self._stream.set_timeout(_GOODBYE_S)
                self._stream.send([Request(Command.DISCONNECT).header(0)])
        self._lost = self._lost or "it was closed"
        self._stream.close()

    def _send(self, request: Request) -> None:
        request.deadline = time.monotonic() + self._timeout_s
        with self._changed:
            self._cookie += 1
            cookie = self._cookie
            self._requests[cookie] = request
        try:
            with self._sending:
                self._stream.send([request.header(cookie), request.payload])
        except OSError as error:
            self._lose(str(error))  # which the wait for the reply tells

    def _wait(self, request: Request) -> int:
        """Until the reply is there; the error number in it."""
        with self._changed:
            while self._receiving and not request.done:
                left_s = request.deadline - time.monotonic()
                # After a loss the one who receives comes out by himself; until then he may write to our buffer.
                if not self._changed.wait(max(0.0, left_s) if not self._lost else None):
                    self._lose(f"no answer within {self._timeout_s:g} s")
            if request.done:
                return self._result(request)
            if self._lost:
                raise NbdConnectionLost(self._lost)
            self._receiving = True
        try:
            while not request.done:
                self._receive(request.deadline)
        except (OSError, NbdProtocolError) as error:
            self._lose(str(error))
        finally:
            with self._changed:
                self._receiving = False
                self._changed.notify_all()
        if not request.done:
            raise NbdConnectionLost(self._lost)
        return self._result(request)

    def _result(self, request: Request) -> int:
        if request.error == errno.ESHUTDOWN:
            self._lose("the server shuts down")
            raise NbdConnectionLost(self._lost)
        return request.error

    def _lose(self, reason: str) -> None:
        """No more use of this connection: the first reason counts."""
        with self._changed:  # re-entrant
            self._lost = self._lost or reason
            self._changed.notify_all()
        self._stream.shut_down()

    def _receive(self, deadline: float) -> None:
        """One chunk, or one simple reply, for whichever request it is."""
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        head = memoryview(bytearray(16))
        self._stream.receive_into(head)
        magic, flags, kind, cookie = struct.unpack(">IHHQ", head)
        request = self._requests.get(cookie)
        if request is None:
            raise NbdProtocolError("a reply to something that was not asked")
        if magic == protocol.SIMPLE_REPLY_MAGIC:
            request.error = flags << 16 | kind
            if not request.error:
                request.take_simple(self.export.structured, self._stream.receive_into)
            flags = protocol.CHUNK_DONE
        elif magic == protocol.STRUCTURED_REPLY_MAGIC and self.export.structured:
            length = memoryview(bytearray(4))
            self._stream.receive_into(length)
            request.take_chunk(kind, struct.unpack(">I", length)[0], self._stream.receive_into)
        else:
            raise NbdProtocolError("a reply without its magic")
        if flags & protocol.CHUNK_DONE:
            request.finish()
            with self._changed:
                del self._requests[cookie]
                request.done = True
                self._changed.notify_all()
