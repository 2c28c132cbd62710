"""The listening side of the data channel: one port, one peer that knows the task's secret, however often it comes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import msgspec

from holdfast_agent.errors import Locked, RecordRejected, VersionMismatch
from holdfast_agent.model.link import LinkTimeouts

from .data_connection import DEFAULT_WINDOW_BYTES, DataConnection
from .data_exchange import Totals
from .data_handshake import (
    PROTOCOL_VERSION,
    Hello,
    Welcome,
    decode_hello,
    derive_keys,
    encode_welcome,
    hello_version,
)
from .data_incarnation import Incarnation
from .data_records import RecordKind, RecordOpener, RecordSealer
from .data_sockets import TcpConnection
from .data_wires import ListeningWire, looks_like_hello

_PEER = "the other mover"


class _Pending(msgspec.Struct):
    """A stream whose Hello was authentic; confirmed once its first record is."""

    hello: Hello
    connection: TcpConnection | None
    sealer: RecordSealer
    opener: RecordOpener
    confirmed: bool = False
    totals: bytes = b""


class DataListener:
    """Listens from construction on until :meth:`close`, or until the connection that it has returned is closed.

    ``port_range`` is inclusive; a free port in it is taken. ``secret`` is the task's. Raises :class:`Locked` if all
    ports are taken. One thread owns it.

    The first peer that knows the secret names the connection. Later Hellos of that name open its next incarnations,
    if their number is higher than any before; everybody else is ignored.
    """

    def __init__(
        self,
        address: str,
        advertised_address: str,
        port_range: tuple[int, int],
        secret: bytes,
        *,
        timeouts: LinkTimeouts,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
    ) -> None:
        self._secret = secret
        self._timeouts = timeouts
        self._window_bytes = window_bytes
        self._first: Hello | None = None
        self._incarnation = 0  # the highest that was heard of
        self._adopted = 0
        self._pending: dict[bytes, _Pending] = {}
        self._heard: set[bytes] = set()
        self._complete: list[bytes] = []
        self._wire = ListeningWire(address, timeouts.silence_s, self._on_stranger)
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

        Returns the connection once every stream of it has proved itself, which then owns the listener. Whoever does
        not know the secret is ignored. Raises :class:`VersionMismatch` for a peer that does but is too new or old.
        """
        incarnation = self.next(timeout_s, fds, None)
        if incarnation is None or self._first is None:
            return None
        return DataConnection(
            incarnation,
            self,
            self._timeouts,
            send_window_bytes=self._first.window_bytes,
            receive_window_bytes=self._window_bytes,
        )

    @property
    def waiting(self) -> bool:
        """See :class:`Opening`."""
        return bool(self._complete)

    def next(self, timeout_s: float, fds: Iterable[int], totals: Totals | None) -> Incarnation | None:
        """See :class:`Opening`; ``totals`` None: nothing has come yet."""
        if not self._complete:
            self._wire.wait(timeout_s, fds)
            self._wire.receive()  # tells of strangers only, since no stream is adopted now
        return self._adopt(totals) if self._complete else None

    def abandon(self, *, elsewhere: bool) -> None:
        """See :class:`Opening`."""
        self._wire.abandon()

    def close(self, linger_s: float = 0) -> None:
        """Stop listening. Not needed after a connection was returned. Idempotent."""
        self._wire.close(linger_s)

    def _on_stranger(self, route: bytes, connection: TcpConnection | None, frames: list[memoryview]) -> None:
        if route in self._pending:
            self._on_confirm(route, frames)
        elif looks_like_hello(frames):
            self._on_hello(route, connection, bytes(frames[0]))

    def _on_hello(self, route: bytes, connection: TcpConnection | None, frame: bytes) -> None:
        version = hello_version(frame, self._secret)
        if version is not None and version != PROTOCOL_VERSION and self._first is None:
            self._answer(route, frame)
            raise VersionMismatch(peer=_PEER, theirs=version, ours=PROTOCOL_VERSION)
        hello = decode_hello(frame, self._secret)
        if hello is None or version != PROTOCOL_VERSION or not self._belongs(hello):
            return
        if hello.incarnation <= self._adopted or hello.incarnation < self._incarnation:
            return
        if hello.incarnation > self._incarnation:
            self._incarnation = hello.incarnation
            self._pending.clear()
            self._heard.clear()
            self._complete = []
        # A Hello that was heard before is a copy: even its answer would tell a stranger that somebody listens here.
        if hello.random in self._heard:
            return
        self._heard.add(hello.random)
        welcome = self._answer(route, frame)
        self._first = self._first or hello
        keys = derive_keys(self._secret, frame, welcome)
        sealer, opener = RecordSealer(keys.back, hello.stream), RecordOpener(keys.out, hello.stream)
        self._pending[route] = _Pending(hello, connection, sealer, opener)

    def _answer(self, route: bytes, frame: bytes) -> bytes:
        """The Welcome that was sent."""
        welcome = encode_welcome(Welcome(PROTOCOL_VERSION, self._window_bytes, os.urandom(32)), frame, self._secret)
        self._wire.answer(route, welcome)
        return welcome

    def _belongs(self, hello: Hello) -> bool:
        """Whether it is of the connection that the first one named."""
        first = self._first
        return first is None or (hello.connection, hello.streams) == (first.connection, first.streams)

    def _on_confirm(self, route: bytes, frames: list[memoryview]) -> None:
        pending = self._pending[route]
        try:
            kind, plain, _ = pending.opener.open(frames)
        except RecordRejected:
            kind, plain = None, memoryview(b"")
        if kind is not RecordKind.CONFIRM or pending.confirmed:
            del self._pending[route]  # an old Hello played back: it cannot go on, and the true peer still can
            return
        pending.confirmed, pending.totals = True, bytes(plain)
        confirmed = {each.hello.stream: route for route, each in self._pending.items() if each.confirmed}
        if len(confirmed) == pending.hello.streams:
            self._complete = [confirmed[stream] for stream in sorted(confirmed)]

    def _adopt(self, totals: Totals | None) -> Incarnation:
        """All streams have confirmed: from now on this incarnation is heard, and the one before no more."""
        routes, self._complete = self._complete, []
        self._adopted = self._incarnation
        streams = [self._pending.pop(route) for route in routes]
        self._wire.adopt(routes, [pending.connection for pending in streams])
        said = Totals.decode(streams[0].totals, len(streams))
        keys = [(pending.sealer, pending.opener) for pending in streams]
        incarnation = Incarnation(self._wire, keys, said, _PEER)
        ours = totals or Totals(0, (0,) * len(streams))
        for number in range(len(streams)):
            incarnation.send(number, RecordKind.ACCEPT, b"" if number else ours.encode())
        return incarnation
