"""The thread behind a client of a control channel: the one owner of its DEALER socket."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import zmq

from holdfast_agent.errors import HoldfastError, MalformedMessage
from holdfast_agent.wire import codec
from holdfast_agent.wire.messages import Failure, Heartbeat, Push, Reply

from .authentication import KeyPair

_HEARTBEAT_CORRELATION: Final = (1 << 64) - 1  # calls count from 1 and never get there
_LONGEST_HEARTBEAT_S: Final = 10.0  # an agent forgets a connection that says nothing for a minute

Decode = Callable[[bytes | memoryview, str], Reply | Push]
"""What the other side says; the second argument names it in errors."""

_log = logging.getLogger(__name__)


class DealerLoop:
    """Sends what other threads hand over, receives, keeps the connection alive, and notices when it ends.

    :meth:`send`, :meth:`watch_silence` and :meth:`stop` are thread-safe; :meth:`run` is the thread's body, in which
    the two callbacks are called. The owner calls :meth:`close` after that thread has ended.
    """

    def __init__(
        self,
        endpoint: str,
        server_key: str,
        keys: KeyPair,
        timeout_s: float,
        on_reply: Callable[[int, Reply | HoldfastError], None],
        on_push: Callable[[Push], None],
        decode: Decode,
    ) -> None:
        self._decode = decode
        self._endpoint = endpoint
        self._server_key = server_key
        self._keys = keys
        self._timeout_s = timeout_s
        self._heartbeat_s = min(timeout_s / 4, _LONGEST_HEARTBEAT_S)
        self._on_reply = on_reply
        self._on_push = on_push
        self._outbox: deque[tuple[int, bytes]] = deque()  # append and popleft are atomic
        self._stopping = threading.Event()
        self._watching = threading.Event()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._last_heard = self._last_sent = 0.0

    def send(self, correlation: int, frame: bytes) -> None:
        """Hand a message over to the thread."""
        self._outbox.append((correlation, frame))
        os.eventfd_write(self._wake_fd, 1)

    def watch_silence(self) -> None:
        """From now on (the greetings are exchanged) silence and a closed connection end :meth:`run`."""
        self._watching.set()
        os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """Make :meth:`run` return soon."""
        self._stopping.set()
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Give the wake descriptor back."""
        os.close(self._wake_fd)

    def run(self) -> str:
        """Serve until stopped or the agent is lost; returns the reason for people. Sockets close before the context."""
        context = zmq.Context(io_threads=1)
        try:
            with context.socket(zmq.DEALER) as socket:
                socket.linger = 0
                monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
                try:
                    self._open(socket)
                    return self._serve(socket, monitor)
                finally:
                    socket.disable_monitor()
                    monitor.close(linger=0)
        finally:
            context.term()

    def _open(self, socket: zmq.Socket[bytes]) -> None:
        socket.curve_secretkey = self._keys.secret
        socket.curve_publickey = self._keys.public.encode("ascii")
        socket.curve_serverkey = self._server_key.encode("ascii")
        socket.maxmsgsize = codec.CONTROL_LIMIT_BYTES
        socket.sndhwm = 0  # calls wait for their replies, so what queues here is bounded by the caller's threads
        socket.ipv6 = True
        socket.connect(self._endpoint)

    def _serve(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> str:
        poller = zmq.Poller()
        for source in (socket, monitor, self._wake_fd):
            poller.register(source, zmq.POLLIN)
        self._last_heard = self._last_sent = time.monotonic()
        while True:
            ready = dict(poller.poll(self._wait_ms()))
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            if self._stopping.is_set():
                return "closed by this side"
            if not self._flush(socket) and self._watching.is_set():
                return "the connection is gone"
            if socket in ready and not self._receive(socket):
                return "the other side no longer knows this connection"
            if monitor in ready:
                monitor.recv_multipart()  # (pyzmq's own parser would import asyncio)
                if self._watching.is_set():
                    return "the other side closed the connection"
            silent_s = time.monotonic() - self._last_heard
            if self._watching.is_set() and silent_s > self._timeout_s:
                return f"nothing heard for {silent_s:.1f} s"
            self._keep_alive()

    def _wait_ms(self) -> int:
        now = time.monotonic()
        until_heartbeat_s = self._last_sent + self._heartbeat_s - now
        until_silence_s = self._last_heard + self._timeout_s - now
        wait_s = min(until_heartbeat_s, until_silence_s) if self._watching.is_set() else self._heartbeat_s
        return max(1, int(wait_s * 1000) + 1)

    def _flush(self, socket: zmq.Socket[bytes]) -> bool:
        """Send what is waiting; False when there is nobody to send to. Never blocks: a peer that refuses the key takes
        the connection away for good, and a send would wait for another one for ever."""
        while self._outbox:
            correlation, frame = self._outbox[0]
            try:
                socket.send_multipart([codec.pack_correlation(correlation), frame], zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._outbox.popleft()
            self._last_sent = time.monotonic()
        return True

    def _keep_alive(self) -> None:
        if self._watching.is_set() and time.monotonic() - self._last_sent >= self._heartbeat_s:
            self.send(_HEARTBEAT_CORRELATION, codec.encode(Heartbeat()))
            self._last_sent = time.monotonic()

    def _receive(self, socket: zmq.Socket[bytes]) -> bool:
        """Take what has arrived; False when the agent answered a heartbeat by a failure."""
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            self._last_heard = time.monotonic()
            if not self._take(frames):
                return False

    def _take(self, frames: list[bytes]) -> bool:
        try:
            correlation = codec.unpack_correlation(frames[0], self._endpoint)
        except MalformedMessage as error:
            _log.warning("%s", error)
            return True
        try:
            if len(frames) != 2:
                raise MalformedMessage(peer=self._endpoint, reason=f"{len(frames)} frames, not 2")
            message = self._decode(frames[1], self._endpoint)
        except HoldfastError as error:
            if correlation == codec.PUSH_CORRELATION:
                _log.warning("%s", error)  # a push that a newer agent may have added: minor versions only add
            else:
                self._on_reply(correlation, error)
            return True
        if isinstance(message, Push):
            self._on_push(message)
        elif correlation == _HEARTBEAT_CORRELATION:
            return not isinstance(message, Failure)
        else:
            self._on_reply(correlation, message)
        return True
