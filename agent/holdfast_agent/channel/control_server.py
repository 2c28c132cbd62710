"""The side of a control channel that listens: one ROUTER socket with CURVE, its ZAP handler, and its owner's poller.

Agents listen so to managers, and managers to the command lines of their users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from holdfast_agent.errors import ConfigInvalid, MalformedMessage
from holdfast_agent.wire import codec
from holdfast_agent.wire.messages import Message

from .authentication import KeyPair, ZapHandler

_QUEUED_MESSAGES = 1000  # per manager; one that reads none of a thousand messages is cut off
_INBOUND_MESSAGES = 8  # per manager; a frame may have 64 MiB
_HANDSHAKE_MS = 10_000
_PING_MS = 10_000
_PING_TIMEOUT_MS = 30_000
_READ_AT_ONCE = 64  # then timers and movers get their turn

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """One authenticated connection: ``key`` is the peer's public key as CURVE proved it, never what it says.

    ``address``: where it comes from (an IP address), for people.
    """

    routing_id: bytes
    key: str
    address: str = ""


@dataclass(frozen=True)
class Incoming:
    """A message as it came: not yet decoded, from a peer that is authenticated but may have been revoked since."""

    connection: Connection
    correlation: int
    frame: bytes


class ControlServer:
    """Owned by one thread, which calls all methods. Binding happens in the constructor; :meth:`close` frees all."""

    def __init__(
        self, listen: str, keys: KeyPair, admits: Callable[[str], bool], limit_bytes: int, setting: str
    ) -> None:
        """``listen``: tcp://ADDRESS:PORT; port 0 takes a free one. ``admits``: whether the peer with this public key
        may connect now. ``limit_bytes``: of one message. Raises :class:`ConfigInvalid`, which names ``setting``, if
        the port is taken."""
        self._context = zmq.Context(io_threads=1)
        self._zap = ZapHandler(self._context, admits)
        self._router = self._context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        try:
            self._set_up_router(keys, listen, limit_bytes)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigInvalid(file=listen, key=setting, reason=f"cannot listen: {error.strerror}") from error
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        for source in (self._router, self._zap.socket):
            self._poller.register(source, zmq.POLLIN)

    def watch(self, fd: int, *, readable: bool = True, writable: bool = False) -> None:
        """Let :meth:`poll` report this descriptor too; a second call changes what is waited for (nothing: no more)."""
        self._poller.register(fd, (zmq.POLLIN if readable else 0) | (zmq.POLLOUT if writable else 0))

    def unwatch(self, fd: int) -> None:
        """To be called before the descriptor is closed; harmless for one that is not watched."""
        self._poller.register(fd, 0)

    def poll(self, timeout_s: float) -> tuple[list[Incoming], list[int]]:
        """Wait at most ``timeout_s``; returns messages in order of arrival, and watched descriptors that are ready.

        Questions of the authentication protocol are answered on the way.
        """
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        if self._zap.socket in ready:
            refused = self._zap.answer()
            if refused is not None:
                _log.warning("refused the key %s", refused)
        messages = self._receive() if self._router in ready else []
        return messages, [source for source in ready if isinstance(source, int)]

    def send(self, connection: Connection, correlation: int, message: Message) -> bool:
        """Send a reply, or a push with correlation 0; False if the manager is gone or reads nothing any more."""
        return self.send_frame(connection, correlation, codec.encode(message))

    def send_frame(self, connection: Connection, correlation: int, frame: bytes) -> bool:
        """The same with a message that is encoded already."""
        try:
            self._router.send_multipart(
                [connection.routing_id, codec.pack_correlation(correlation), frame], zmq.NOBLOCK
            )
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def close(self, linger_s: float = 0.0) -> None:
        """Close the sockets, then the context; last replies get ``linger_s`` to leave. Idempotent."""
        self._zap.close()
        self._router.close(linger=int(linger_s * 1000))
        self._context.term()

    def _set_up_router(self, keys: KeyPair, listen: str, limit_bytes: int) -> None:
        router = self._router
        router.curve_server = True
        router.curve_secretkey = keys.secret
        router.zap_domain = ZapHandler.DOMAIN.encode()
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        router.router_mandatory = True  # sending to a connection that is gone fails instead of vanishing
        router.maxmsgsize = limit_bytes
        router.sndhwm = _QUEUED_MESSAGES
        router.rcvhwm = _INBOUND_MESSAGES
        router.handshake_ivl = _HANDSHAKE_MS
        router.heartbeat_ivl = _PING_MS
        router.heartbeat_timeout = _PING_TIMEOUT_MS
        router.ipv6 = "[" in listen
        router.bind(listen)

    def _receive(self) -> list[Incoming]:
        messages: list[Incoming] = []
        while len(messages) < _READ_AT_ONCE:
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            incoming = self._unwrap(frames)
            if incoming is not None:
                messages.append(incoming)
        return messages

    def _unwrap(self, frames: list[zmq.Frame]) -> Incoming | None:
        key = frames[-1].get("User-Id")
        if not isinstance(key, str) or not key:
            _log.error("dropped a message without an authenticated key")  # CURVE and ZAP make this impossible
            return None
        connection = Connection(frames[0].bytes, key, _address(frames[-1]))
        try:
            if len(frames) != 3:
                raise MalformedMessage(peer=key, reason=f"{len(frames) - 1} frames, not 2")
            correlation = codec.unpack_correlation(frames[1].bytes, key)
        except MalformedMessage as error:
            _log.warning("%s", error)  # there is no correlation under which to answer
            return None
        return Incoming(connection, correlation, frames[2].bytes)


def _address(frame: zmq.Frame) -> str:
    told = frame.get("Peer-Address")
    return told if isinstance(told, str) else ""
