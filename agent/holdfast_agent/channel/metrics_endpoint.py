"""Where Prometheus reads a process's metrics: HTTP, one path, one request for each connection, in a thread of its own.

Nobody is asked who he is, so it listens on loopback unless the configuration says otherwise, and tells numbers only.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable

from holdfast_agent.model.metrics import CONTENT_TYPE, Metric, exposition, parse_place

_REQUEST_S = 2.0
_ANSWER_S = 5.0
"""One who is slow keeps the others waiting for no longer than these."""
_MAX_REQUEST = 8192
_log = logging.getLogger(__name__)


class MetricsEndpoint:
    """Serves what ``collect`` gives, which is called in its thread for each scrape. ``close`` ends it.

    ``place`` as in :func:`parse_place`. Raises ``OSError`` when the address cannot be had. Whatever clients do, or
    ``collect`` raises, is logged at most.
    """

    def __init__(self, place: str, collect: Callable[[], Iterable[Metric]]) -> None:
        host, port = parse_place(place)
        self._collect = collect
        self._listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=16
        )
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Idempotent. Waits for a scrape that is under way."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which a mere close does not
        except OSError:
            return
        self._thread.join(_REQUEST_S + _ANSWER_S)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                try:
                    self._answer(client)
                except OSError as error:
                    _log.debug("a reader of metrics: %s", error)

    def _answer(self, client: socket.socket) -> None:
        request = _read_request(client)
        client.settimeout(_ANSWER_S)
        client.sendall(self._reply(request))
        client.shutdown(socket.SHUT_WR)

    def _reply(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.split(b" ", 1)[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"")
        if path != b"/metrics":
            return _response("404 Not Found", b"metrics are at /metrics\n")
        try:
            body = exposition(self._collect())
        except Exception as error:  # noqa: BLE001 (thread boundary: a scrape that fails must not end all later ones)
            _log.warning("metrics could not be collected: %s", error)
            return _response("503 Service Unavailable", b"")
        return _response("200 OK", body if method == b"GET" else b"", CONTENT_TYPE)


def _read_request(client: socket.socket) -> bytes:
    """The head of a request. Raises ``TimeoutError``, or ``ConnectionError`` for one that is none."""
    give_up = time.monotonic() + _REQUEST_S
    head = b""
    while b"\r\n\r\n" not in head:
        client.settimeout(max(0.001, give_up - time.monotonic()))
        more = client.recv(_MAX_REQUEST)
        head += more
        if not more or len(head) > _MAX_REQUEST or time.monotonic() > give_up:
            raise ConnectionError("no request")
    return head


def _response(status: str, body: bytes, content_type: str = "text/plain") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
