"""The connecting side of the data channel: tries the endpoints of the listening mover until one answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from itertools import cycle

from holdfast_agent.errors import RecordRejected, Unreachable, UsageError, VersionMismatch

from .data_connection import DEFAULT_WINDOW_BYTES, DataConnection, Stream
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
from .data_records import RecordKind, RecordOpener, RecordSealer
from .data_wires import ConnectingWire

_ATTEMPT_S = 10.0
_PAUSE_S = 0.2


class DataConnector:
    """Connects to the first of ``endpoints`` whose listener proves that it knows ``secret``.

    Endpoints are tried in turn, each up to ten seconds, until ``timeout_s`` is over. One thread owns it.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        secret: bytes,
        *,
        streams: int = 1,
        timeout_s: float,
        stall_timeout_s: float,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
    ) -> None:
        if not endpoints or not all(endpoint.startswith("tcp://") for endpoint in endpoints):
            raise UsageError(reason="a mover needs at least one endpoint of the form tcp://host:port to connect to")
        if not 1 <= streams <= MAX_STREAMS:
            raise UsageError(reason=f"a data connection has 1 to {MAX_STREAMS} streams, not {streams}")
        self._endpoints = cycle(endpoints)
        self._names = ", ".join(endpoints)
        self._secret = secret
        self._streams = streams
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._window_bytes = window_bytes
        self._attempt: _Attempt | None = None
        self._not_before = 0.0

    def poll(self, timeout_s: float, fds: Iterable[int] = ()) -> DataConnection | None:
        """One step of connecting: at most ``timeout_s``, less if one of ``fds`` becomes readable.

        Returns the connection once the listener has answered on every stream. Raises :class:`Unreachable` when the
        time is over (also when the other side does not know the secret: it does not answer then),
        :class:`RecordRejected` for a false answer, :class:`VersionMismatch`.
        """
        now = time.monotonic()
        if now >= self._deadline:
            raise Unreachable(peer=self._names, timeout_s=self._timeout_s)
        if self._attempt is None:
            self._attempt = _Attempt(next(self._endpoints), self._secret, self._streams, self._window_bytes)
            self._attempt_ends = min(self._deadline, now + _ATTEMPT_S)
        # After a refusal the dead sockets are kept for a moment as something to wait on, so as not to spin.
        pause = self._not_before - now
        welcomes = self._attempt.step(min(timeout_s, max(0.0, self._attempt_ends - now)) if pause <= 0 else pause, fds)
        if welcomes is not None:
            attempt, self._attempt = self._attempt, None
            return attempt.connection(welcomes, self._stall_timeout_s, self._window_bytes)
        now = time.monotonic()
        if self._attempt.wire.gone and self._not_before <= now - _PAUSE_S:
            self._not_before = now + _PAUSE_S
        elif (self._attempt.wire.gone and now >= self._not_before) or now >= self._attempt_ends:
            self.close()
        return None

    def close(self) -> None:
        """Give up. Not needed after a connection was returned. Idempotent."""
        if self._attempt is not None:
            self._attempt.wire.close(0)
            self._attempt = None


class _Attempt:
    """One try at one endpoint: the Hellos that were sent and the Welcomes that came back."""

    def __init__(self, endpoint: str, secret: bytes, streams: int, window_bytes: int) -> None:
        self.endpoint = endpoint
        self._secret = secret
        self.wire = ConnectingWire(endpoint, streams)
        connection = os.urandom(16)
        self._hellos: list[bytes] = []
        self._welcomes: dict[int, bytes] = {}
        for stream in range(streams):
            hello = Hello(PROTOCOL_VERSION, stream, streams, window_bytes, connection, os.urandom(32))
            self._hellos.append(encode_hello(hello, secret))
            self.wire.send_hello(stream, self._hellos[-1])

    def step(self, timeout_s: float, fds: Iterable[int]) -> list[bytes] | None:
        """Wait once; the Welcomes of all streams when they are complete."""
        self.wire.wait(timeout_s, fds)
        while (arrival := self.wire.receive()) is not None:
            if len(arrival.frames) != 1 or arrival.frames[0].nbytes != WELCOME_BYTES:
                self.wire.close(0)
                raise RecordRejected(reason="the answer to the hello is malformed")
            self._welcomes[arrival.stream] = bytes(arrival.frames[0])
            if len(self._welcomes) == len(self._hellos):
                return [self._welcomes[stream] for stream in range(len(self._hellos))]
        return None

    def connection(self, frames: list[bytes], stall_timeout_s: float, window_bytes: int) -> DataConnection:
        """Check the Welcomes, confirm each stream, and hand over."""
        try:
            welcomes = [
                decode_welcome(frame, hello, self._secret) for frame, hello in zip(frames, self._hellos, strict=True)
            ]
            for welcome in welcomes:
                if welcome.version != PROTOCOL_VERSION:
                    raise VersionMismatch(peer=self.endpoint, theirs=welcome.version, ours=PROTOCOL_VERSION)
        except BaseException:
            self.wire.close(0)
            raise
        streams = [self._confirm(number, frame) for number, frame in enumerate(frames)]
        return DataConnection(
            self.wire,
            streams,
            peer=self.endpoint,
            send_window_bytes=_least_window(welcomes),
            receive_window_bytes=window_bytes,
            stall_timeout_s=stall_timeout_s,
        )

    def _confirm(self, number: int, welcome_frame: bytes) -> Stream:
        keys = derive_keys(self._secret, self._hellos[number], welcome_frame)
        stream = Stream(RecordSealer(keys.out, number), RecordOpener(keys.back, number), *(time.monotonic(),) * 2)
        self.wire.send(number, stream.sealer.seal(RecordKind.CONFIRM, b""))
        return stream


def _least_window(welcomes: list[Welcome]) -> int:
    return min(welcome.window_bytes for welcome in welcomes)
