"""A client of a control channel: one connection, many threads that ask."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from holdfast_agent.errors import ConnectionLost, HoldfastError, Unreachable, UsageError, from_record
from holdfast_agent.wire import codec
from holdfast_agent.wire.messages import Failure, Push, Reply, Request

from .authentication import KeyPair, check_public_key
from .control_dealer import DealerLoop, Decode
from .silence import why_silent

CALL_TIMEOUT_S = 120.0
"""How long a call may take by default: a repository on slow storage may think; a silent agent is noticed sooner."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeerLost:
    """Told once through ``on_push`` when the connection ends unasked; the client is dead after it."""

    peer: str
    error: ConnectionLost


class RequestClient(ABC):
    """What clients of all protocols on such a channel have in common; a subclass says how one greets.

    Used as a context manager or by :meth:`connect` and :meth:`close`. Thread-safe: any thread may :meth:`call`; one
    thread of its own owns the socket. ``on_push`` runs in that thread and must return quickly (put it into a queue).
    ``timeout_s`` is how long the other side may be silent, at connecting and later; the client keeps the connection
    alive by heartbeats. A client that lost its peer stays lost: make a new one.
    """

    def __init__(
        self,
        endpoint: str,
        server_key: str,
        keys: KeyPair,
        on_push: Callable[[Push | PeerLost], None],
        decode: Decode,
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing is sent yet. Raises :class:`UsageError` for an endpoint or a key that cannot be one."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        if not endpoint.startswith("tcp://") or not host or not (port.isascii() and port.isdigit()):
            raise UsageError(reason=f"{endpoint!r} is no endpoint; write tcp://HOST:PORT")
        self.endpoint = endpoint
        self._server_key = check_public_key(server_key)
        self._keys = keys
        self._on_push = on_push
        self._decode = decode
        self._timeout_s = timeout_s
        self._greeted = False
        self._lock = threading.Lock()  # guards all below
        self._pending: dict[int, Future[Reply]] = {}
        self._next_correlation = 1
        self._ended = ConnectionLost(peer=endpoint, reason="the client is not connected")
        self._live = False
        self._closing = False
        self._loop: DealerLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def live(self) -> bool:
        """Whether calls can be made: connected, and neither lost nor closed since."""
        with self._lock:
            return self._live

    def connect(self) -> Self:
        """Connect and exchange greetings; at most once per client.

        Raises :class:`Unreachable` when nothing answers within the time-out: a peer that is down and one that
        refuses either side's key look the same from here; :class:`VersionMismatch`; :class:`UsageError`.
        """
        if self._thread is not None:
            raise UsageError(reason="a client connects once; make a new one")
        loop = DealerLoop(
            self.endpoint, self._server_key, self._keys, self._timeout_s, self._settle, self._deliver, self._decode
        )
        self._loop, self._live = loop, True
        self._thread = threading.Thread(target=self._run, args=(loop,), name=f"control {self.endpoint}", daemon=True)
        self._thread.start()
        try:
            self._greet(self._timeout_s)
            self._greeted = True
            loop.watch_silence()
        except Unreachable as error:
            self.close()
            found = why_silent(self.endpoint)
            raise Unreachable(peer=self.endpoint, timeout_s=self._timeout_s, found=found) from error
        except BaseException:
            self.close()
            raise
        return self

    def call(self, request: Request, timeout_s: float | None = None) -> Reply:
        """Ask the other side and wait for its reply.

        Raises its own typed error; :class:`Unreachable` when this call takes longer than ``timeout_s``
        (default :data:`CALL_TIMEOUT_S`; what it does goes on); :class:`ConnectionLost` when it is lost
        or the client closed; :class:`MessageTooLarge`. Not to be called from ``on_push``.
        """
        limit_s = CALL_TIMEOUT_S if timeout_s is None else timeout_s
        correlation, future = self._submit(codec.encode(request))
        try:
            reply = future.result(limit_s)
        except FutureTimeout:
            raise Unreachable(peer=self.endpoint, timeout_s=limit_s) from None
        finally:
            with self._lock:
                self._pending.pop(correlation, None)
        if isinstance(reply, Failure):
            raise from_record(reply.error)
        return reply

    def close(self) -> None:
        """End the connection; calls under way fail with :class:`ConnectionLost`. Idempotent; not from ``on_push``."""
        with self._lock:
            self._closing = True
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.stop()
            self._thread.join()
            loop.close()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def _greet(self, timeout_s: float) -> None:
        """Exchange greetings, by :meth:`call`. Raises what ends the connection."""

    def _submit(self, frame: bytes) -> tuple[int, Future[Reply]]:
        future: Future[Reply] = Future()
        with self._lock:
            if not self._live or self._loop is None:
                raise ConnectionLost(**self._ended.fields)
            correlation = self._next_correlation
            self._next_correlation += 1
            self._pending[correlation] = future
            self._loop.send(correlation, frame)  # under the lock, so that close() cannot take the loop away meanwhile
        return correlation, future

    # --- called in the connection's own thread ---

    def _run(self, loop: DealerLoop) -> None:
        try:
            reason = loop.run()
        except Exception as error:  # noqa: BLE001 - thread boundary: those who wait must learn that nobody serves
            _log.exception("control connection to %s", self.endpoint)
            reason = f"{type(error).__name__}: {error}"
        lost = ConnectionLost(peer=self.endpoint, reason=reason)
        with self._lock:
            self._ended, self._live = lost, False
            pending, self._pending = list(self._pending.values()), {}
            tell = self._greeted and not self._closing
        for future in pending:
            future.set_exception(ConnectionLost(**lost.fields))
        if tell:
            self._deliver(PeerLost(self.endpoint, lost))

    def _deliver(self, push: Push | PeerLost) -> None:
        try:
            self._on_push(push)
        except Exception:  # noqa: BLE001 - boundary: the caller's defect must not end the connection
            _log.exception("on_push failed for %s", type(push).__name__)

    def _settle(self, correlation: int, reply: Reply | HoldfastError) -> None:
        with self._lock:
            future = self._pending.pop(correlation, None)
        if future is None:
            return  # its caller has given up waiting
        if isinstance(reply, HoldfastError):
            future.set_exception(reply)
        else:
            future.set_result(reply)
