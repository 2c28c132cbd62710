"""A web server of disks: its connections, kept for the next request, and what is borne of it."""

from __future__ import annotations

import http.client
import queue
import ssl
import threading
from collections.abc import Callable

from holdfast_agent.disks import patience
from holdfast_agent.disks.places import check_server
from holdfast_agent.disks.tls import client_context, untrusted
from holdfast_agent.errors import HoldfastError
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .connection import Answer, WebConnection, WebProtocolError

_MAX_RETRY_AFTER_S = 30.0
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class WebServer:
    """Requests of many threads, each on a connection of its own. Thread-safe.

    ``lost``: makes the error of a request that had no answer, from the reason.
    """

    def __init__(self, url: DiskUrl, host: MoverHost, access: DiskAccess, lost: Callable[[str], HoldfastError]) -> None:
        check_server(url, host)
        self._url = url
        self._host = host
        self._access = access
        self._closed = threading.Event()
        self._idle: queue.LifoQueue[WebConnection] = queue.LifoQueue()
        self._context: ssl.SSLContext | None = None
        if url.scheme.encrypted:
            try:
                self._context = client_context(host, access)
            except OSError as error:
                raise lost(f"TLS: {error}") from error

    def get(
        self, target: str, offset: int, buffer: memoryview, pin: str, lost: Callable[[str], HoldfastError]
    ) -> Answer:
        """As :meth:`WebConnection.get`, until there is an answer that another attempt would not change."""
        return self._ask(lambda at: at.get(target, offset, buffer, pin, self._host.stall_timeout_s), lost)

    def put(
        self, target: str, size_bytes: int, read: Callable[[int], memoryview], lost: Callable[[str], HoldfastError]
    ) -> Answer:
        """As :meth:`WebConnection.put`, from the first byte on again when the server was lost or busy."""
        return self._ask(lambda at: at.put(target, size_bytes, read, self._host.stall_timeout_s), lost)

    def close(self) -> None:
        """What is still asked is not asked again. Idempotent, never raises."""
        self._closed.set()
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _ask(self, request: Callable[[WebConnection], Answer], lost: Callable[[str], HoldfastError]) -> Answer:
        for pause_s in patience.PAUSES_S:
            answer, reason = self._attempt(request)
            if answer is not None and answer.status not in _BUSY:
                return answer
            if self._closed.is_set():
                break
            self._closed.wait(max(pause_s, _retry_after_s(answer)))
        answer, reason = self._attempt(request)
        if answer is None:
            raise lost(reason)
        return answer

    def _attempt(self, request: Callable[[WebConnection], Answer]) -> tuple[Answer | None, str]:
        """An answer, or why there is none."""
        try:
            connection = self._connection()
            try:
                return request(connection), ""
            finally:
                if connection.usable and not self._closed.is_set():
                    self._idle.put(connection)
                else:
                    connection.close()
        except ssl.SSLCertVerificationError as error:
            raise untrusted(error, str(self._url)) from error
        except (OSError, http.client.HTTPException, WebProtocolError) as error:
            return None, str(error) or type(error).__name__

    def _connection(self) -> WebConnection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return WebConnection(self._url, self._access, self._context, self._host.connect_timeout_s)


def _retry_after_s(answer: Answer | None) -> float:
    told = answer.retry_after if answer is not None else ""
    return min(float(told), _MAX_RETRY_AFTER_S) if told.isdecimal() else 0.0
