"""The TCP connections under ZeroMQ's sockets, by their descriptors: how long nothing came, and ending one at once.

libzmq owns the descriptors and may close one at any moment, after which the number may mean something else. So each is
remembered with its peer, and whatever is asked of it later is asked only while that is still who it is.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

_LAST_DATA_RECEIVED = 52
"""Where struct tcp_info (linux/tcp.h) has tcpi_last_data_recv, in milliseconds."""


class TcpConnection(NamedTuple):
    """A connection as it was when it was looked at first."""

    descriptor: int
    peer: Any

    @classmethod
    def of(cls, descriptor: int) -> TcpConnection | None:
        """None if it is no connection (any more)."""
        with contextlib.suppress(OSError), _borrowed(descriptor) as borrowed:
            return cls(descriptor, borrowed.getpeername())
        return None

    def quiet_s(self) -> float | None:
        """Seconds since the kernel last received data by it, read by us or not; None if it is gone."""
        with contextlib.suppress(OSError), _borrowed(self.descriptor) as borrowed:
            if borrowed.getpeername() == self.peer:
                told = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED + 4)
                return float(struct.unpack_from("=I", told, _LAST_DATA_RECEIVED)[0]) / 1000
        return None

    def reset(self) -> None:
        """End it at once: what waits in the kernel is dropped, not sent when the line is there again."""
        with contextlib.suppress(OSError), _borrowed(self.descriptor) as borrowed:
            if borrowed.getpeername() == self.peer:
                borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                borrowed.shutdown(socket.SHUT_RDWR)  # libzmq sees an end and closes it, which sends the reset


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    borrowed = socket.socket(fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()
