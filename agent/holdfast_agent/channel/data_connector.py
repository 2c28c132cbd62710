"""The connecting side of the data channel: tries the endpoints of the listening mover until one answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

from holdfast_agent.errors import RecordRejected, Unreachable, UsageError, VersionMismatch
from holdfast_agent.model.link import LinkTimeouts

from .data_connection import DEFAULT_WINDOW_BYTES, DataConnection
from .data_exchange import Totals
from .data_handshake import (
    MAX_STREAMS,
    PROTOCOL_VERSION,
    WELCOME_BYTES,
    Hello,
    Welcome,
    decode_welcome,
    derive_keys,
    encode_hello,
)
from .data_incarnation import Incarnation
from .data_records import RecordKind, RecordOpener, RecordSealer
from .data_wires import Arrival, ConnectingWire

_ATTEMPT_S = 5.0
_PAUSE_S = 0.2


class DataConnector:
    """Connects to the first of ``endpoints`` whose listener proves that it knows ``secret``, again when that is lost.

    Endpoints are tried in turn, each up to five seconds, until ``timeout_s`` is over; after a loss beginning with the
    one that was lost, or with the one after it if that fell silent. One thread owns it.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        secret: bytes,
        *,
        streams: int = 1,
        timeout_s: float,
        timeouts: LinkTimeouts,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
    ) -> None:
        if not endpoints or not all(endpoint.startswith("tcp://") for endpoint in endpoints):
            raise UsageError(reason="a mover needs at least one endpoint of the form tcp://host:port to connect to")
        if not 1 <= streams <= MAX_STREAMS:
            raise UsageError(reason=f"a data connection has 1 to {MAX_STREAMS} streams, not {streams}")
        self._endpoints = tuple(endpoints)
        self._turn = 0
        self._secret = secret
        self._streams = streams
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._timeouts = timeouts
        self._window_bytes = window_bytes
        self._name = os.urandom(16)
        self._incarnations = 0
        self._attempt: _Attempt | None = None
        self._attempt_ends = 0.0
        self._refused_until: float | None = None
        self._standing: ConnectingWire | None = None
        self._window: int | None = None

    def poll(self, timeout_s: float, fds: Iterable[int] = ()) -> DataConnection | None:
        """One step of connecting: at most ``timeout_s``, less if one of ``fds`` becomes readable.

        Returns the connection once the listener has answered on every stream, which then owns the connector. Raises
        :class:`Unreachable` when the time is over (also when the other side does not know the secret: it does not
        answer then), :class:`RecordRejected` for a false answer, :class:`VersionMismatch`.
        """
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise Unreachable(peer=", ".join(self._endpoints), timeout_s=self._timeout_s)
        incarnation = self.next(min(timeout_s, left_s), fds, Totals(0, (0,) * self._streams))
        if incarnation is None or self._window is None:
            return None
        return DataConnection(
            incarnation,
            self,
            self._timeouts,
            send_window_bytes=self._window,
            receive_window_bytes=self._window_bytes,
        )

    @property
    def waiting(self) -> bool:
        """See :class:`Opening`: never, since this side opens."""
        return False

    def next(self, timeout_s: float, fds: Iterable[int], totals: Totals) -> Incarnation | None:
        """See :class:`Opening`."""
        now = time.monotonic()
        if self._attempt is None:
            self._incarnations += 1
            self._attempt = _Attempt(
                self._endpoints[self._turn % len(self._endpoints)], self._hellos(), self._secret, self._timeouts, totals
            )
            self._attempt_ends, self._refused_until = now + _ATTEMPT_S, None
        until = self._attempt_ends if self._refused_until is None else self._refused_until
        incarnation = self._attempt.step(min(timeout_s, max(0.0, until - now)), fds)
        if incarnation is not None:
            self._window, self._standing, self._attempt = self._attempt.window_bytes, self._attempt.wire, None
            return incarnation
        now = time.monotonic()
        # After a refusal the dead sockets are kept for a moment as something to wait on, so as not to spin.
        if self._attempt.wire.gone and self._refused_until is None:
            self._refused_until = now + _PAUSE_S
        elif now >= until:
            self._turn += 1
            self._give_up_attempt()
        return None

    def abandon(self, *, elsewhere: bool) -> None:
        """See :class:`Opening`."""
        self._turn += elsewhere
        if self._standing is not None:
            self._standing.abandon()
            self._standing = None

    def close(self, linger_s: float = 0) -> None:
        """Give up. Not needed after a connection was returned. Idempotent."""
        self._give_up_attempt()
        if self._standing is not None:
            self._standing.close(linger_s)
            self._standing = None

    def _give_up_attempt(self) -> None:
        if self._attempt is not None:
            self._attempt.wire.abandon()
            self._attempt = None

    def _hellos(self) -> list[bytes]:
        return [
            encode_hello(
                Hello(
                    PROTOCOL_VERSION,
                    stream,
                    self._streams,
                    self._window_bytes,
                    self._incarnations,
                    self._name,
                    os.urandom(32),
                ),
                self._secret,
            )
            for stream in range(self._streams)
        ]


class _Attempt:
    """One try at one endpoint: an incarnation as far as its handshake has come.

    Hello → Welcome on each stream; when all are there, Confirm → Accept on each stream. Raises what
    :meth:`DataConnector.poll` says, and is closed then.
    """

    def __init__(
        self, endpoint: str, hellos: list[bytes], secret: bytes, timeouts: LinkTimeouts, totals: Totals
    ) -> None:
        self.endpoint = endpoint
        self.window_bytes = 0
        self._secret = secret
        self._totals = totals
        self._hellos = hellos
        self._welcomes: dict[int, bytes] = {}
        self._keys: list[tuple[RecordSealer, RecordOpener]] = []
        self._accepted: dict[int, bytes] = {}
        self.wire = ConnectingWire(endpoint, len(hellos), timeouts.silence_s)
        for stream, hello in enumerate(hellos):
            self.wire.send_hello(stream, hello)

    def step(self, timeout_s: float, fds: Iterable[int]) -> Incarnation | None:
        """Wait once; the incarnation when it is complete."""
        self.wire.wait(timeout_s, fds)
        try:
            # A stream that has accepted is not read on: what follows is the connection's.
            for stream in range(len(self._hellos)):
                while stream not in self._accepted and (arrival := self.wire.receive_from(stream)) is not None:
                    self._take(arrival)
            if len(self._accepted) < len(self._hellos):
                return None
            said = Totals.decode(self._accepted[0], len(self._hellos))
        except BaseException:
            self.wire.close(0)
            raise
        return Incarnation(self.wire, self._keys, said, self.endpoint)

    def _take(self, arrival: Arrival) -> None:
        if self._keys:
            kind, plain, _ = self._keys[arrival.stream][1].open(arrival.frames)
            if kind is not RecordKind.ACCEPT:
                raise RecordRejected(reason=f"a record of kind {kind.name} came before the handshake was over")
            self._accepted[arrival.stream] = bytes(plain)
            return
        if len(arrival.frames) != 1 or arrival.frames[0].nbytes != WELCOME_BYTES:
            raise RecordRejected(reason="the answer to the hello is malformed")
        self._welcomes[arrival.stream] = bytes(arrival.frames[0])
        if len(self._welcomes) == len(self._hellos):
            self._confirm([self._check(stream) for stream in range(len(self._hellos))])

    def _check(self, stream: int) -> Welcome:
        welcome = decode_welcome(self._welcomes[stream], self._hellos[stream], self._secret)
        if welcome.version != PROTOCOL_VERSION:
            raise VersionMismatch(peer=self.endpoint, theirs=welcome.version, ours=PROTOCOL_VERSION)
        return welcome

    def _confirm(self, welcomes: list[Welcome]) -> None:
        """Prove on each stream that this is no old Hello played back."""
        self.window_bytes = min(welcome.window_bytes for welcome in welcomes)
        for stream, hello in enumerate(self._hellos):
            keys = derive_keys(self._secret, hello, self._welcomes[stream])
            self._keys.append((RecordSealer(keys.out, stream), RecordOpener(keys.back, stream)))
        for stream, (sealer, _) in enumerate(self._keys):
            plain = b"" if stream else self._totals.encode()
            self.wire.send(stream, sealer.seal(RecordKind.CONFIRM, plain))
