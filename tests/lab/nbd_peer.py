"""A scripted NBD server: right in everything but what a test lets it get wrong."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

OPTION_STARTTLS, OPTION_GO, OPTION_STRUCTURED, OPTION_CONTEXT = 5, 7, 8, 10
READ, WRITE, DISCONNECT, BLOCK_STATUS = 0, 1, 2, 7
ACK, INFO, META_CONTEXT, UNSUPPORTED = 1, 3, 4, (1 << 31) | 1
MULTI_CONN = 1 << 8
SIZE = 1 << 20
CONTEXT = 7
"""The id of the first context that is granted; others follow."""
ALLOCATION, BITMAP = "base:allocation", "qemu:dirty-bitmap:since"
GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


_PATTERN = b"".join(bytes([number]) * 512 for number in range(1, 252))


def disk_bytes(offset: int, length: int) -> bytes:
    """What the peer's disk holds, never zero and not the same in neighbouring sectors."""
    start = offset % len(_PATTERN)
    return (_PATTERN * (2 + length // len(_PATTERN)))[start : start + length]


def option_reply(option: int, kind: int, body: bytes = b"", magic: int = 0x3E889045565A9) -> bytes:
    return struct.pack(">QIII", magic, option, kind, len(body)) + body


def export_info(size: int = SIZE, flags: int = 1) -> bytes:
    return struct.pack(">HQH", 0, size, flags)


def chunk(request: Request, kind: int, body: bytes = b"", *, done: bool = True, length: int | None = None) -> bytes:
    head = (0x668E33EF, int(done), kind, request.cookie, len(body) if length is None else length)
    return struct.pack(">IHHQI", *head) + body


def data_chunk(request: Request, offset: int, length: int, *, done: bool = True) -> bytes:
    return chunk(request, 1, struct.pack(">Q", offset) + disk_bytes(offset, length), done=done)


def status_chunk(request: Request, *runs: tuple[int, int], context: int = CONTEXT, done: bool = True) -> bytes:
    body = struct.pack(">I", context) + b"".join(struct.pack(">II", *run) for run in runs)
    return chunk(request, 5, body, done=done)


class Request(NamedTuple):
    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    payload: bytes


Answer = Callable[[Request], Iterable[bytes]]


def right_answer(request: Request) -> Iterator[bytes]:
    """What a good server says, in two chunks for a read."""
    if request.command == READ:
        half = max(request.length // 2, 1)
        yield data_chunk(request, request.offset, half, done=half == request.length)
        if half < request.length:
            yield data_chunk(request, request.offset + half, request.length - half)
    elif request.command == BLOCK_STATUS:
        yield status_chunk(request, (4096, 0), (request.length, 3))
    else:
        yield chunk(request, 0)


@dataclass
class Peer:
    """``options``: replies to an option instead of the right ones. ``budget``: bytes after which it closes each
    connection, by the connection's number (the last one for all that follow). ``contexts``: granted, by that number."""

    path: Path
    greeting: bytes = GREETING
    options: Mapping[int, Iterable[bytes]] = field(default_factory=dict)
    answer: Answer = right_answer
    info: Callable[[int], bytes] = lambda number: export_info()
    budget: list[int | None] = field(default_factory=lambda: [None])
    contexts: Callable[[int], tuple[str, ...]] = lambda number: (ALLOCATION,)
    connections: int = 0
    sent: int = 0
    requests: list[Request] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is closed; each connection in a thread of its own."""
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                number, self.connections = self.connections, self.connections + 1
                threading.Thread(target=self._connection, args=(peer, number), daemon=True).start()

    def _connection(self, peer: socket.socket, number: int) -> None:
        left = self.budget[min(number, len(self.budget) - 1)]

        def send(data: bytes) -> None:
            nonlocal left
            part = data if left is None else data[:left]
            peer.sendall(part)
            self.sent += len(part)
            if left is not None:
                left -= len(part)
                if left == 0:
                    raise ConnectionResetError

        with peer, contextlib.suppress(OSError):
            send(self.greeting)
            _exactly(peer, 4)
            self._negotiate(peer, send, number)
            while True:
                magic, *fields = struct.unpack(">IHHQQI", _exactly(peer, 28))
                assert magic == 0x25609513
                payload = _exactly(peer, fields[-1]) if fields[1] == WRITE else b""
                request = Request._make((*fields, payload))
                if request.command == DISCONNECT:
                    return
                self.requests.append(request)
                for part in self.answer(request):
                    send(part)

    def _negotiate(self, peer: socket.socket, send: Callable[[bytes], None], number: int) -> None:
        while True:
            _, option, length = struct.unpack(">QII", _exactly(peer, 16))
            _exactly(peer, length)
            for reply in self.options.get(option) or self._right_reply(option, number):
                send(reply)
            if option == OPTION_GO:
                return

    def _right_reply(self, option: int, number: int) -> list[bytes]:
        if option == OPTION_CONTEXT:
            named = enumerate(self.contexts(number), CONTEXT)
            granted = [struct.pack(">I", context) + name.encode() for context, name in named]
            return [*(option_reply(option, META_CONTEXT, each) for each in granted), option_reply(option, ACK)]
        if option == OPTION_GO:
            return [option_reply(option, INFO, self.info(number)), option_reply(option, ACK)]
        return [option_reply(option, ACK if option == OPTION_STRUCTURED else UNSUPPORTED)]


@contextlib.contextmanager
def serving(peer: Peer) -> Iterator[Peer]:
    """Listen on ``peer.path`` meanwhile."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(peer.path))
        listener.listen()
        thread = threading.Thread(target=peer.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _exactly(peer: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        part = peer.recv(length - len(found))
        if not part:
            raise ConnectionResetError
        found += part
    return found
