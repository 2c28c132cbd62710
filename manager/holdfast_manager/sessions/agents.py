"""The session's connections to agents, and the one lease under which all its movers live."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import (
    AgentAway,
    ConnectionLost,
    HoldfastError,
    MalformedMessage,
    Unreachable,
    from_record,
)
from holdfast_agent.wire.messages import CloseLease, Done, Push, RenewLease, Reply, Request
from holdfast_manager.catalog.catalog import Catalog

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Reply)
OnPush = Callable[[str, Push | AgentLost], None]

_SILENT_S = 10.0
"""For so long an agent may say nothing; no longer than what it has of us lives without us."""
_TRIES = 5
_PAUSE_S = 2.0
"""Between them: an agent that is not there takes ten seconds to be missed, so that a minute is over after the last."""
_DISMISS_S = 30.0


class AgentPool:
    """Connects to an agent when it is first needed and again after it was lost; opens the lease each time.

    However many ask at once for an agent that is not there, they wait for one attempt to reach it. Thread-safe.
    ``on_push(agent, push)`` is called in the connection's own thread and must return quickly.
    """

    def __init__(
        self, catalog: Catalog, keys: KeyPair, lease: str, ttl_s: float, on_push: OnPush, believe_s: float = 0.0
    ) -> None:
        """``believe_s``: for so long an agent that was not reached is not looked for again, so that many VMs do not
        wait for it one after the other. Shorter than what failed pauses: a further try is a further look."""
        self.lease = lease
        self._believe_s = believe_s
        self._catalog = catalog
        self._keys = keys
        self._ttl_s = ttl_s
        self._on_push = on_push
        self._lock = threading.Lock()
        self._attempts: dict[str, Future[ControlClient]] = {}
        self._clients: dict[str, ControlClient] = {}
        self._away: dict[str, tuple[float, HoldfastError]] = {}
        self._owed: defaultdict[str, list[Request]] = defaultdict(list)

    def ask(self, agent: str, request: Request, expect: type[R], timeout_s: float | None = None) -> R:
        """Send ``request`` and return its reply of the type ``expect``.

        Raises what the agent raised, ``Unreachable`` or ``ConnectionLost`` (both retryable), or ``NotFound`` for an
        agent that the catalogue does not know.
        """
        return _expected(agent, request, self._client(agent).call(request, timeout_s), expect)

    def insist(self, agent: str, request: Request, expect: type[R]) -> R:
        """As :meth:`ask`, several times while the agent is lost: ``request`` may be carried out twice without harm.

        Raises :class:`AgentAway` once it was away for as long as our lease there lives (a minute at most): what it has
        of us has lapsed then. An agent that is there but slow is asked as often.
        """
        began = time.monotonic()
        for attempt in range(1, _TRIES + 1):
            try:
                return _expected(agent, request, self._client(agent, 0.0).call(request), expect)
            except (ConnectionLost, Unreachable) as error:
                waited_s = time.monotonic() - began
                if self.is_away(agent) and (attempt == _TRIES or waited_s >= self._ttl_s):
                    raise AgentAway(agent=agent, waited_s=round(waited_s)) from error
                if attempt == _TRIES:
                    raise
                threading.Event().wait(_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def dismiss(self, agent: str, request: Request, timeout_s: float | None = _DISMISS_S) -> None:
        """Have an agent end what would end with our lease at the latest. Raises as :meth:`ask`.

        One that is away is not waited for: it is told as soon as somebody reaches it again.
        """
        try:
            client = self._client(agent, math.inf)
            _expected(agent, request, client.call(request, timeout_s), Done)
        except (ConnectionLost, Unreachable):
            self._owe(agent, request)
            raise

    def is_connected(self, agent: str) -> bool:
        """Whether it hears us without anybody's waiting for it."""
        with self._lock:
            return agent in self._clients

    def is_away(self, agent: str) -> bool:
        """Whether the last attempt to reach it failed."""
        with self._lock:
            return agent in self._away

    def addresses(self, agent: str) -> tuple[str, ...]:
        """By which its movers are reached, the first one first; none of an agent that is older. Raises as ``ask``."""
        return self._client(agent).hello.addresses

    def understands(self, agent: str, minor: int) -> bool:
        """Whether it knows what this minor version of the protocol brought. Raises as ``ask``."""
        return self._client(agent).hello.minor >= minor

    def renew(self) -> None:
        """Prolong the lease at every connected agent; called by :class:`LeaseKeeper`. Failures show as AgentLost.

        All are asked at once: those that hang would use up the time of those that do not.
        """
        with self._lock:
            clients = list(self._clients.values())
        if clients:
            with ThreadPoolExecutor(len(clients), "renews a lease") as at_once:
                list(at_once.map(self._renew, clients))

    def _renew(self, client: ControlClient) -> None:
        with contextlib.suppress(HoldfastError):
            client.call(RenewLease(lease=self.lease, ttl_s=self._ttl_s), timeout_s=self._ttl_s / 2)

    def close(self) -> None:
        """Give the lease back everywhere, which stops whatever still runs under it, and disconnect."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for agent, client in clients.items():
            try:
                client.call(CloseLease(lease=self.lease), timeout_s=30)
            except HoldfastError as error:
                log.warning("the lease at %s could not be closed, it runs out by itself: %s", agent, error)
            client.close()

    def _client(self, agent: str, believe_s: float | None = None) -> ControlClient:
        believe_s = self._believe_s if believe_s is None else believe_s
        with self._lock:
            client = self._clients.get(agent)
            if client is not None:
                return client
            missed_at, missed = self._away.get(agent, (0.0, None))
            if missed is not None and time.monotonic() < missed_at + believe_s:
                raise from_record(missed.to_record())
            attempt = self._attempts.get(agent)
            ours = attempt is None
            if attempt is None:
                attempt = self._attempts[agent] = Future()
        if ours:
            self._try(agent, attempt)
        try:
            return attempt.result()
        except HoldfastError as error:  # each of those who waited raises one of his own
            raise from_record(error.to_record()) from error

    def _try(self, agent: str, attempt: Future[ControlClient]) -> None:
        """Connect for all who wait for ``attempt``; who comes after its end makes another."""
        found: ControlClient | None = None
        failure: BaseException | None = None
        try:
            found = self._connect(agent)
        except BaseException as error:  # noqa: BLE001 - handed to all who wait
            failure = error
        with self._lock:
            del self._attempts[agent]
            self._away.pop(agent, None)
            if isinstance(failure, ConnectionLost | Unreachable):
                self._away[agent] = time.monotonic(), failure
        if found is not None:
            attempt.set_result(found)
        else:
            attempt.set_exception(failure)

    def _connect(self, agent: str) -> ControlClient:
        entry = self._catalog.agents.get(agent)
        client = ControlClient(
            entry.endpoint,
            entry.public_key,
            self._keys,
            lambda push: self._deliver(agent, client, push),
            min(_SILENT_S, self._ttl_s),
        )
        try:
            client.connect()
        except Unreachable as error:  # people know it by its name
            raise error.known_as(f"agent {agent} at {entry.endpoint.removeprefix('tcp://')}") from error
        try:
            client.call(RenewLease(lease=self.lease, ttl_s=self._ttl_s))
            self._tell_owed(agent, client)
        except BaseException:
            client.close()
            raise
        with self._lock:
            self._clients[agent] = client
        if not client.live:  # lost again before it was known here, so that nobody could forget it
            self._forget(agent, client)
        return client

    def _tell_owed(self, agent: str, client: ControlClient) -> None:
        """First of all what it was to end while it was away: our lease, renewed, would keep that alive."""
        with self._lock:
            owed = self._owed.pop(agent, [])
        for request in owed:
            try:
                client.call(request, _DISMISS_S)
            except (ConnectionLost, Unreachable):
                self._owe(agent, request)
            except HoldfastError as error:
                log.info("what %s was to end had ended by itself: %s", agent, error)

    def _owe(self, agent: str, request: Request) -> None:
        with self._lock:
            self._owed[agent].append(request)

    def _deliver(self, agent: str, client: ControlClient, push: Push | AgentLost) -> None:
        if isinstance(push, AgentLost):
            self._forget(agent, client)
            # The connection's own thread cannot wait for itself to end.
            threading.Thread(target=client.close, name=f"close {agent}", daemon=True).start()
        self._on_push(agent, push)

    def _forget(self, agent: str, client: ControlClient) -> None:
        with self._lock:
            if self._clients.get(agent) is client:
                del self._clients[agent]


def _expected(agent: str, request: Request, reply: Reply, expect: type[R]) -> R:
    if not isinstance(reply, expect):
        raise MalformedMessage(peer=agent, reason=f"{type(reply).__name__} in answer to {type(request).__name__}")
    return reply


class LeaseKeeper:
    """Does what leases need, from a thread of its own while the driver may be busy. A context manager."""

    def __init__(self, interval_s: float, renewals: tuple[Callable[[], None], ...]) -> None:
        self._interval_s = interval_s
        self._renewals = renewals
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease keeper", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            for renew in self._renewals:
                try:
                    renew()
                except HoldfastError as error:  # a busy database or a lost agent: the next time is soon
                    log.warning("a lease could not be seen to: %s", error)
