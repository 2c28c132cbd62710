"""The ZeroMQ sockets under a data connection: one ROUTER on the listening side, one DEALER per stream on the other.

Nothing here knows keys. A wire carries frames and says at once when the connection under a stream is gone; it never
reconnects, because a new TCP connection is a new handshake.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import zmq

from .data_handshake import HELLO_BYTES
from .data_records import MAX_FRAME_BYTES, Buffer

COPY_BELOW_BYTES = 64 << 10
"""Frames at least this large are handed to ZeroMQ without a copy; below it the bookkeeping costs more than a copy."""

_RECEIVE_QUEUE_MESSAGES = (
    16  # bounds what a peer can make libzmq hold before we look at it; credit bounds our own sends
)
# "Never" as a number of milliseconds: the true never (-1) makes libzmq drop what has arrived and was not read yet.
_NEVER_MS = 500_000_000
_GONE = zmq.Event.DISCONNECTED | zmq.Event.CLOSED | zmq.Event.CONNECT_RETRIED
_DEALER_EVENTS = int(_GONE)
_ROUTER_EVENTS = int(zmq.Event.DISCONNECTED)


class Arrival(NamedTuple):
    """One message of a stream: its frames without ZeroMQ's routing id. ``sealed`` shares ZeroMQ's memory."""

    stream: int
    frames: list[memoryview]


class Wire(Protocol):
    """What a connection needs of its sockets. Owned by one thread."""

    def send(self, stream: int, frames: Sequence[Buffer]) -> bool:
        """Queue one record; never blocks. False if the stream's connection is gone."""

    def receive(self) -> Arrival | None:
        """The next message that has arrived, or None."""

    def wait(self, timeout_s: float, fds: Iterable[int]) -> set[int]:
        """Wait until a message or a disconnection can be looked at or a descriptor is readable; the readable ones."""

    @property
    def gone(self) -> bool:
        """Whether the connection under any stream has ended. What arrived before can still be received."""

    def close(self, linger_s: float) -> None:
        """Close all sockets, giving what is queued up to ``linger_s`` to leave. Idempotent."""


def make_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, *, ipv6: bool) -> zmq.Socket[bytes]:
    """A socket with this channel's bounds: frame size before allocation, queue lengths, no reconnection."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
    socket.setsockopt(zmq.IPV6, int(ipv6))
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    return socket


class ConnectingWire:
    """One DEALER per stream. Raises nothing on a refused connection: ``gone`` tells."""

    def __init__(self, endpoint: str, streams: int) -> None:
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._closed = False
        self.gone = False
        self._sockets = [make_socket(self._context, zmq.DEALER, ipv6="[" in endpoint) for _ in range(streams)]
        self._monitors = [socket.get_monitor_socket(_DEALER_EVENTS) for socket in self._sockets]
        self._turn = 0
        for socket, monitor in zip(self._sockets, self._monitors, strict=True):
            self._poller.register(socket, zmq.POLLIN)
            self._poller.register(monitor, zmq.POLLIN)
            socket.connect(endpoint)

    def send_hello(self, stream: int, frame: bytes) -> None:
        self._sockets[stream].send(frame, zmq.NOBLOCK)

    def send(self, stream: int, frames: Sequence[Buffer]) -> bool:
        try:
            _send_frames(self._sockets[stream], frames)
        except zmq.Again:  # a DEALER without its peer would wait for ever
            self.gone = True
        return not self.gone

    def receive(self) -> Arrival | None:
        for _ in self._sockets:
            stream = self._turn = (self._turn + 1) % len(self._sockets)
            try:
                frames = self._sockets[stream].recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                continue
            return Arrival(stream, [frame.buffer for frame in frames])
        return None

    def wait(self, timeout_s: float, fds: Iterable[int]) -> set[int]:
        ready = _poll(self._poller, timeout_s, fds)
        for monitor in self._monitors:
            if monitor in ready:
                monitor.recv_multipart()
                self.gone = True
        return {item for item in ready if isinstance(item, int)}

    def close(self, linger_s: float) -> None:
        if self._closed:
            return
        self._closed = True
        for socket, monitor in zip(self._sockets, self._monitors, strict=True):
            _close(socket, monitor, linger_s)
        self._context.term()


class ListeningWire:
    """One ROUTER. Until :meth:`adopt` names the streams' routing ids, it serves the handshake."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._router = make_socket(self._context, zmq.ROUTER, ipv6=":" in address)
        self._monitor = self._router.get_monitor_socket(_ROUTER_EVENTS)
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._address = f"[{address}]" if ":" in address else address
        self._bound = ""
        self._routes: list[bytes] = []
        self._streams: dict[bytes, int] = {}
        self._descriptors: set[int] = set()
        self._seen_gone: set[int] = set()
        self._early: deque[Arrival] = deque()
        self._closed = False
        self.gone = False

    def bind(self, port: int) -> bool:
        """Listen on this port; False if it is taken."""
        try:
            self._router.bind(f"tcp://{self._address}:{port}")
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                return False
            raise
        self._bound = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        return True

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._bound.rpartition(":")[2])

    def receive_any(self) -> tuple[bytes, int, list[memoryview]] | None:
        """During the handshake: (routing id, descriptor of the connection, frames) of any peer, or None."""
        try:
            route, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        descriptor = int(frames[0].get(zmq.SRCFD)) if frames else -1
        self._seen_gone.discard(descriptor)
        return route.bytes, descriptor, [frame.buffer for frame in frames]

    def answer(self, route: bytes, frame: bytes) -> None:
        """During the handshake: answer a peer that has proved itself; nothing happens if it is gone by now."""
        try:
            self._router.send_multipart([route, frame], zmq.NOBLOCK)
        except zmq.ZMQError:
            return

    def adopt(self, routes: list[bytes], descriptors: set[int], early: Iterable[Arrival]) -> None:
        """The handshake is done: speak with these peers only, stream by stream.

        What others send from now on is dropped unread. The port stays bound, since libzmq's unbind would close the
        accepted connections too.

        ``early`` are messages of these streams that arrived while another stream was still shaking hands.
        """
        self._routes = routes
        self._streams = {route: stream for stream, route in enumerate(routes)}
        self._descriptors = descriptors
        self._early.extend(early)
        self.gone = not self._descriptors.isdisjoint(self._seen_gone)

    def send(self, stream: int, frames: Sequence[Buffer]) -> bool:
        try:
            self._router.send(self._routes[stream], zmq.SNDMORE | zmq.NOBLOCK)
            _send_frames(self._router, frames)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.gone = True
        return not self.gone

    def receive(self) -> Arrival | None:
        if self._early:
            return self._early.popleft()
        while (message := self.receive_any()) is not None:
            stream = self._streams.get(message[0])
            if stream is not None:
                return Arrival(stream, message[2])
        return None

    def wait(self, timeout_s: float, fds: Iterable[int]) -> set[int]:
        ready = _poll(self._poller, 0 if self._early else timeout_s, fds)
        if self._monitor in ready:
            descriptor = _event_value(self._monitor)
            if self._routes:
                self.gone = self.gone or descriptor in self._descriptors
            else:
                self._seen_gone.add(descriptor)
        return {item for item in ready if isinstance(item, int)}

    def close(self, linger_s: float) -> None:
        if self._closed:
            return
        self._closed = True
        _close(self._router, self._monitor, linger_s)
        self._context.term()


def looks_like_hello(frames: list[memoryview]) -> bool:
    """Cheap test before any cryptography."""
    return len(frames) == 1 and frames[0].nbytes == HELLO_BYTES


def _send_frames(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    for frame in frames[:-1]:
        socket.send(frame, zmq.SNDMORE | zmq.NOBLOCK, copy=len(frame) < COPY_BELOW_BYTES)
    socket.send(frames[-1], zmq.NOBLOCK, copy=len(frames[-1]) < COPY_BELOW_BYTES)


def _poll(poller: zmq.Poller, timeout_s: float, fds: Iterable[int]) -> dict[object, int]:
    fds = tuple(fds)
    for fd in fds:
        poller.register(fd, zmq.POLLIN)
    try:
        return dict(poller.poll(max(0, int(timeout_s * 1000))))
    finally:
        for fd in fds:
            poller.unregister(fd)


def _event_value(monitor: zmq.Socket[bytes]) -> int:
    """The value of the next event (a descriptor). pyzmq's own parser would import asyncio into every mover."""
    _event, value = struct.unpack("=HI", monitor.recv_multipart()[0])
    return int(value)


def _close(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], linger_s: float) -> None:
    socket.disable_monitor()
    monitor.close(0)
    socket.close(int(linger_s * 1000))
