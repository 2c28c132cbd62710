"""A TCP relay between two movers that can be broken: the line's faults without a network of their own."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading

_CHUNK = 1 << 16


class Relay:
    """Listens on loopback and passes everything on to ``port``. Faults hold until :meth:`mend`."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._left: int | None = None
        self._refusing = self._frozen = self._closing = False
        self.passed_bytes = 0
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self._server.getsockname()[1]}"

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections, and those that come if ``refuse``."""
        with self._lock:
            self._refusing = refuse
            self._reset_all()

    def cut_after(self, count_bytes: int) -> None:
        """Reset all connections once so many more bytes have passed; what comes then passes."""
        with self._lock:
            self._left = count_bytes

    def freeze(self) -> None:
        """Pass nothing on without a word, as a partition does; new connections are taken and left alone."""
        with self._lock:
            self._frozen = True

    def mend(self) -> None:
        """New connections pass. Those that were frozen stay so: what was lost on them would be missing."""
        with self._lock:
            self._frozen = self._refusing = False

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            socket.create_connection(self._server.getsockname(), 1).close()  # wakes it up
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._reset_all()
        self._server.close()
        self._selector.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    ready = key.fileobj
                    if ready is self._server:
                        self._accept()
                    elif isinstance(ready, socket.socket) and ready in self._pairs:
                        self._pass(ready)

    def _accept(self) -> None:
        near, _ = self._server.accept()
        if self._refusing or self._closing:
            _reset(near)
            return
        try:
            far = socket.create_connection(self._target, 60)
        except OSError:  # who is to be reached has ended
            _reset(near)
            return
        self._pairs |= {near: far, far: near}
        for end in (near, far):
            self._selector.register(end, selectors.EVENT_READ)

    def _pass(self, end: socket.socket) -> None:
        if self._frozen:
            for one in (end, self._pairs[end]):
                with contextlib.suppress(KeyError):
                    self._selector.unregister(one)
            return
        try:
            data = end.recv(_CHUNK)
            self._pairs[end].sendall(data)
        except OSError:
            data = b""
        self.passed_bytes += len(data)
        if not data:
            self._drop(end)
        elif self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._left = None
                self._reset_all()

    def _drop(self, end: socket.socket) -> None:
        other = self._pairs.pop(end)
        self._pairs.pop(other, None)
        for one in (end, other):
            with contextlib.suppress(KeyError):
                self._selector.unregister(one)
            _reset(one)

    def _reset_all(self) -> None:
        for end in list(self._pairs):
            if end in self._pairs:
                self._drop(end)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
