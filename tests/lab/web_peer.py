"""A scripted web server on loopback: a test says what it answers to each request, byte by byte."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

SIZE = 1 << 20
TAG = '"first"'


class Request(NamedTuple):
    """``number``: of the request, over all connections. ``start`` and ``end``: of the range, half-open. ``body``: of
    what is put there."""

    number: int
    target: str
    headers: dict[str, str]
    start: int
    end: int
    method: str = "GET"
    body: bytes = b""


Answer = Callable[[Request], Iterable[bytes]]


def disk_bytes(start: int, end: int) -> bytes:
    return bytes(at // 512 % 251 + 1 for at in range(start, end))


def head(status: str, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def right_answer(request: Request, **other: object) -> Iterator[bytes]:
    """The range, with ``other`` headers over the right ones; None leaves a header out."""
    headers: dict[str, object] = {
        "ETag": TAG,
        "Content_Length": request.end - request.start,
        "Content_Range": f"bytes {request.start}-{request.end - 1}/{SIZE}",
    }
    kept = {name: value for name, value in (headers | other).items() if value is not None}
    yield head("206 Partial Content", **kept) + disk_bytes(request.start, request.end)


@dataclass
class Peer:
    answer: Answer = right_answer
    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    takes_bytes: int | None = None  # of what is put there; None for all

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._connection, args=(peer,), daemon=True).start()

    def _connection(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as lines, contextlib.suppress(OSError):
            while first := lines.readline():
                headers = {}
                while line := lines.readline().decode().strip():
                    name, _, value = line.partition(": ")
                    headers[name.lower()] = value
                start, end = re.findall(r"\d+", headers.get("range", "0-0"))
                method, target = first.decode().split()[:2]
                size = int(headers.get("content-length", 0))
                body = lines.read(size if self.takes_bytes is None else min(size, self.takes_bytes))
                number = len(self.requests)
                request = Request(number, target, headers, int(start), int(end) + 1, method, body)
                self.requests.append(request)
                for part in self.answer(request):
                    peer.sendall(part)


@contextlib.contextmanager
def serving(answer: Answer = right_answer) -> Iterator[Peer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer(answer, listener.getsockname()[1])
        thread = threading.Thread(target=peer.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
