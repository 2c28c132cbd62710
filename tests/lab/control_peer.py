"""A peer that can send anything over an authenticated connection: what a hostile or broken manager might."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import zmq

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_dealer import Decode
from holdfast_agent.wire import codec
from holdfast_agent.wire.messages import Push, Reply, Request


class RawPeer:
    """A DEALER socket with a key; a context manager."""

    def __init__(self, endpoint: str, server_key: str, keys: KeyPair, decode: Decode = codec.decode_from_agent) -> None:
        self._decode = decode
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.curve_secretkey = keys.secret
        self._socket.curve_publickey = keys.public.encode()
        self._socket.curve_serverkey = server_key.encode()
        self._socket.connect(endpoint)

    def send(self, *frames: bytes) -> None:
        """Send these frames as one message, whatever they are."""
        self._socket.send_multipart(frames)

    def ask(self, request: Request | bytes, correlation: int = 7) -> Reply | Push | None:
        """Send one request (bytes: as they are) and wait for what comes back under the same number."""
        self.send(codec.pack_correlation(correlation), request if isinstance(request, bytes) else codec.encode(request))
        return self.receive(correlation)

    def receive(self, correlation: int = 7, timeout_s: float = 10.0) -> Reply | Push | None:
        """The next message, which must have this number; None if none comes in time. Pushes are passed over."""
        while self._socket.poll(int(timeout_s * 1000)):
            number, frame = self._socket.recv_multipart()
            found = codec.unpack_correlation(number, "agent")
            if found == correlation or found != codec.PUSH_CORRELATION:
                assert found == correlation
                return self._decode(frame, "the peer")
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._context.term()
