"""The listening side of the data channel: one port, one peer that knows the task's secret."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable

import msgspec

from holdfast_agent.errors import Locked, RecordRejected, VersionMismatch

from .data_connection import DEFAULT_WINDOW_BYTES, DataConnection, Stream
from .data_handshake import (
    PROTOCOL_VERSION,
    Hello,
    StreamKeys,
    Welcome,
    decode_hello,
    derive_keys,
    encode_welcome,
)
from .data_records import RecordKind, RecordOpener, RecordSealer
from .data_wires import Arrival, ListeningWire, looks_like_hello

_MAX_PENDING = 64


class _Pending(msgspec.Struct):
    """A stream whose Hello was authentic; confirmed once its first record is."""

    hello: Hello
    route: bytes
    descriptor: int
    sealer: RecordSealer
    opener: RecordOpener
    confirmed: bool = False
    early: list[Arrival] = []


class DataListener:
    """Listens from construction on until :meth:`poll` has returned a connection or :meth:`close` is called.

    ``port_range`` is inclusive; a free port in it is taken. ``secret`` is the task's. Raises :class:`Locked` if all
    ports are taken. One thread owns it.
    """

    def __init__(
        self,
        address: str,
        advertised_address: str,
        port_range: tuple[int, int],
        secret: bytes,
        *,
        stall_timeout_s: float,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
    ) -> None:
        self._secret = secret
        self._stall_timeout_s = stall_timeout_s
        self._window_bytes = window_bytes
        self._pending: dict[bytes, _Pending] = {}
        self._heard: set[bytes] = set()
        self._wire = ListeningWire(address)
        try:
            self._bind(port_range)
        except BaseException:
            self._wire.close(0)
            raise
        self.endpoint = self.endpoint_at(advertised_address)

    def endpoint_at(self, address: str) -> str:
        """Where peers that reach this host by ``address`` find the listener."""
        host = f"[{address}]" if ":" in address else address
        return f"tcp://{host}:{self._wire.port}"

    def _bind(self, port_range: tuple[int, int]) -> None:
        first, last = port_range
        ports = list(range(first, last + 1))
        random.shuffle(ports)  # so that movers that start together seldom try the same port
        if not any(self._wire.bind(port) for port in ports):
            raise Locked(what=f"every data port from {first} to {last}", holder="other movers or programs")

    def poll(self, timeout_s: float, fds: Iterable[int] = ()) -> DataConnection | None:
        """One step of waiting for the peer: at most ``timeout_s``, less if one of ``fds`` becomes readable.

        Returns the connection once every stream of it has proved itself, after which the listener is used up. Whoever
        does not know the secret is ignored. Raises :class:`VersionMismatch` for a peer that does but is too new or old.
        """
        self._wire.wait(timeout_s, fds)
        while (message := self._wire.receive_any()) is not None:
            route, descriptor, frames = message
            if route in self._pending:
                self._on_record(self._pending[route], frames)
            elif looks_like_hello(frames):
                self._on_hello(route, descriptor, bytes(frames[0]))
            connection = self._complete()
            if connection is not None:
                return connection
        return None

    def close(self) -> None:
        """Stop listening. Not needed after a connection was returned, which then owns the socket. Idempotent."""
        self._wire.close(0)

    def _on_hello(self, route: bytes, descriptor: int, frame: bytes) -> None:
        hello = decode_hello(frame, self._secret)
        # A Hello that was heard before is a copy: even its answer would tell a stranger that somebody listens here.
        if hello is None or hello.random in self._heard or len(self._pending) >= _MAX_PENDING:
            return
        self._heard.add(hello.random)
        welcome = encode_welcome(Welcome(PROTOCOL_VERSION, self._window_bytes, os.urandom(32)), frame, self._secret)
        self._wire.answer(route, welcome)
        if hello.version != PROTOCOL_VERSION:
            raise VersionMismatch(peer="the other mover", theirs=hello.version, ours=PROTOCOL_VERSION)
        keys: StreamKeys = derive_keys(self._secret, frame, welcome)
        self._pending[route] = _Pending(
            hello, route, descriptor, RecordSealer(keys.back, hello.stream), RecordOpener(keys.out, hello.stream)
        )

    def _on_record(self, pending: _Pending, frames: list[memoryview]) -> None:
        if pending.confirmed:
            pending.early.append(Arrival(pending.hello.stream, frames))
            return
        try:
            pending.confirmed = pending.opener.open(frames)[0] is RecordKind.CONFIRM
        except RecordRejected:
            del self._pending[pending.route]  # an old Hello played back: it cannot go on, and the true peer still can

    def _complete(self) -> DataConnection | None:
        for first in self._pending.values():
            if not first.confirmed:
                continue
            mine = {
                pending.hello.stream: pending
                for pending in self._pending.values()
                if pending.confirmed and pending.hello.connection == first.hello.connection
            }
            if len(mine) == first.hello.streams:
                return self._connection([mine[stream] for stream in sorted(mine)])
        return None

    def _connection(self, streams: list[_Pending]) -> DataConnection:
        self._wire.adopt(
            [pending.route for pending in streams],
            {pending.descriptor for pending in streams},
            [arrival for pending in streams for arrival in pending.early],
        )
        now = time.monotonic()
        return DataConnection(
            self._wire,
            [Stream(pending.sealer, pending.opener, now, now) for pending in streams],
            peer="the other mover",
            send_window_bytes=streams[0].hello.window_bytes,
            receive_window_bytes=self._window_bytes,
            stall_timeout_s=self._stall_timeout_s,
        )
