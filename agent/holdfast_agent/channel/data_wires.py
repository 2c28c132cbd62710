"""The ZeroMQ sockets under a data connection: one ROUTER on the listening side, one DEALER per stream on the other.

Nothing here knows keys. A wire carries frames and says at once when the connection under a stream is gone; it never
reconnects by itself, because a new TCP connection is a new handshake.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import zmq

from .data_handshake import LONGEST_HELLO_BYTES
from .data_records import MAX_FRAME_BYTES, Buffer
from .data_sockets import TcpConnection

COPY_BELOW_BYTES = 64 << 10
"""Frames at least this large are handed to ZeroMQ without a copy; below it the bookkeeping costs more than a copy."""

_RECEIVE_QUEUE_MESSAGES = (
    16  # bounds what a peer can make libzmq hold before we look at it; credit bounds our own sends
)
# "Never" as a number of milliseconds: the true never (-1) makes libzmq drop what has arrived and was not read yet.
_NEVER_MS = 500_000_000
_GONE = zmq.Event.DISCONNECTED | zmq.Event.CLOSED | zmq.Event.CONNECT_RETRIED
_DEALER_EVENTS = int(_GONE | zmq.Event.CONNECTED)
_ROUTER_EVENTS = int(zmq.Event.DISCONNECTED)
_PINGS = 4


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

    def wait(self, timeout_s: float, fds: Iterable[int]) -> None:
        """Wait until a message or a disconnection can be looked at, a descriptor is readable, or the time is over."""

    def quiet_s(self) -> float:
        """Seconds since the kernel received anything, for the stream where that is longest."""

    @property
    def gone(self) -> bool:
        """Whether the connection under any stream has ended. What arrived before can still be received."""


def make_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, *, ipv6: bool, silence_s: float
) -> zmq.Socket[bytes]:
    """A socket with this channel's bounds: frame size before allocation, queue lengths, no reconnection.

    It sends a ping whenever a quarter of ``silence_s`` is over. That libzmq would end a connection without a pong is
    as good as switched off: on a slow line a ping waits behind a record for longer than that.
    """
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RCVHWM, _RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
    socket.setsockopt(zmq.IPV6, int(ipv6))
    socket.setsockopt(zmq.HEARTBEAT_IVL, max(1, int(silence_s * 1000 / _PINGS)))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _NEVER_MS)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    return socket


class ConnectingWire:
    """One DEALER per stream. Raises nothing on a refused connection: ``gone`` tells."""

    def __init__(self, endpoint: str, streams: int, silence_s: float) -> None:
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._closed = False
        self.gone = False
        ipv6 = "[" in endpoint
        self._sockets = [make_socket(self._context, zmq.DEALER, ipv6=ipv6, silence_s=silence_s) for _ in range(streams)]
        self._monitors = [socket.get_monitor_socket(_DEALER_EVENTS) for socket in self._sockets]
        self._connections: list[TcpConnection | None] = [None] * streams
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
            arrival = self.receive_from(stream)
            if arrival is not None:
                return arrival
        return None

    def receive_from(self, stream: int) -> Arrival | None:
        """The next message of this stream; those of others stay where they are."""
        try:
            frames = self._sockets[stream].recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        return Arrival(stream, [frame.buffer for frame in frames])

    def wait(self, timeout_s: float, fds: Iterable[int]) -> None:
        ready = _poll(self._poller, timeout_s, fds)
        for stream, monitor in enumerate(self._monitors):
            if monitor in ready and (event := _next_event(monitor)) is not None:
                if event[0] == zmq.Event.CONNECTED:
                    self._connections[stream] = TcpConnection.of(event[1])
                else:
                    self.gone = True

    def quiet_s(self) -> float:
        return _longest_quiet_s(self._connections)

    def abandon(self) -> None:
        """Close at once, and have the kernel drop what it holds. Idempotent."""
        if not self._closed:
            for connection in self._connections:
                if connection is not None:
                    connection.reset()
        self.close(0)

    def close(self, linger_s: float) -> None:
        """Close all sockets, giving what is queued up to ``linger_s`` to leave. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for socket, monitor in zip(self._sockets, self._monitors, strict=True):
            _close(socket, monitor, linger_s)
        self._context.term()


Stranger = Callable[[bytes, TcpConnection | None, list[memoryview]], None]
"""Told of what came from none of the adopted streams: its routing id, its connection and the frames."""


class ListeningWire:
    """One ROUTER. Until :meth:`adopt` names the streams' routing ids, all that comes is from strangers."""

    def __init__(self, address: str, silence_s: float, stranger: Stranger) -> None:
        self._context = zmq.Context()
        self._router = make_socket(self._context, zmq.ROUTER, ipv6=":" in address, silence_s=silence_s)
        self._monitor = self._router.get_monitor_socket(_ROUTER_EVENTS)
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._address = f"[{address}]" if ":" in address else address
        self._stranger = stranger
        self._bound = ""
        self._routes: list[bytes] = []
        self._streams: dict[bytes, int] = {}
        self._connections: list[TcpConnection | None] = []
        self._ended: set[int] = set()
        self._unreachable = False
        self._closed = False

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

    @property
    def gone(self) -> bool:
        ended = any(each is not None and each.descriptor in self._ended for each in self._connections)
        return ended or self._unreachable

    def answer(self, route: bytes, frame: bytes) -> None:
        """During the handshake: answer a peer that has proved itself; nothing happens if it is gone by now."""
        try:
            self._router.send_multipart([route, frame], zmq.NOBLOCK)
        except zmq.ZMQError:
            return

    def adopt(self, routes: list[bytes], connections: list[TcpConnection | None]) -> None:
        """From now on these peers are the streams, in this order; those before them are abandoned."""
        self.abandon()
        self._routes = routes
        self._streams = {route: stream for stream, route in enumerate(routes)}
        self._connections = connections

    def abandon(self) -> None:
        """Have the kernel end the streams' connections at once and drop what it holds. The port stays bound."""
        for connection in self._connections:
            if connection is not None and connection.descriptor not in self._ended:
                connection.reset()
        self._routes, self._streams, self._connections, self._unreachable = [], {}, [], False

    def send(self, stream: int, frames: Sequence[Buffer]) -> bool:
        try:
            self._router.send(self._routes[stream], zmq.SNDMORE | zmq.NOBLOCK)
            _send_frames(self._router, frames)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._unreachable = True
        return not self._unreachable

    def receive(self) -> Arrival | None:
        """The next message of a stream. Strangers are told of on the way."""
        while True:
            try:
                route, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            stream = self._streams.get(route.bytes)
            if stream is not None:
                return Arrival(stream, [frame.buffer for frame in frames])
            if frames:
                self._stranger(route.bytes, self._connection(frames[0]), [frame.buffer for frame in frames])

    def _connection(self, frame: zmq.Frame) -> TcpConnection | None:
        """The connection that a frame came by. Who had its descriptor before has ended, and libzmq said so before."""
        descriptor = int(frame.get(zmq.SRCFD))
        self._note_ended()
        if self.gone:
            self._unreachable = True  # else a stream whose descriptor this was would seem to stand again
        self._ended.discard(descriptor)
        return TcpConnection.of(descriptor)

    def wait(self, timeout_s: float, fds: Iterable[int]) -> None:
        if self._monitor in _poll(self._poller, timeout_s, fds):
            self._note_ended()

    def _note_ended(self) -> None:
        while (event := _next_event(self._monitor)) is not None:
            self._ended.add(event[1])

    def quiet_s(self) -> float:
        return _longest_quiet_s(self._connections)

    def close(self, linger_s: float) -> None:
        """Close the socket and its port, giving what is queued up to ``linger_s`` to leave. Idempotent."""
        if self._closed:
            return
        self._closed = True
        _close(self._router, self._monitor, linger_s)
        self._context.term()


def looks_like_hello(frames: list[memoryview]) -> bool:
    """Cheap test before any cryptography."""
    return len(frames) == 1 and frames[0].nbytes <= LONGEST_HELLO_BYTES


def _send_frames(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    for frame in frames[:-1]:
        socket.send(frame, zmq.SNDMORE | zmq.NOBLOCK, copy=len(frame) < COPY_BELOW_BYTES)
    socket.send(frames[-1], zmq.NOBLOCK, copy=len(frames[-1]) < COPY_BELOW_BYTES)


def _longest_quiet_s(connections: Iterable[TcpConnection | None]) -> float:
    quiet = [connection.quiet_s() for connection in connections if connection is not None]
    return max((each for each in quiet if each is not None), default=0.0)


def _poll(poller: zmq.Poller, timeout_s: float, fds: Iterable[int]) -> dict[object, int]:
    fds = tuple(fds)
    for fd in fds:
        poller.register(fd, zmq.POLLIN)
    try:
        return dict(poller.poll(max(0, int(timeout_s * 1000))))
    finally:
        for fd in fds:
            poller.unregister(fd)


def _next_event(monitor: zmq.Socket[bytes]) -> tuple[int, int] | None:
    """The next event and its value (a descriptor). pyzmq's own parser would import asyncio into every mover."""
    try:
        event, value = struct.unpack("=HI", monitor.recv_multipart(zmq.NOBLOCK)[0])
    except zmq.Again:
        return None
    return event, value


def _close(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], linger_s: float) -> None:
    socket.disable_monitor()
    monitor.close(0)
    socket.close(int(linger_s * 1000))
