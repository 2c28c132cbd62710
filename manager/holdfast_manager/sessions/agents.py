"""The session's connections to agents, and the one lease under which all its movers live."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import HoldfastError, MalformedMessage, Unreachable
from holdfast_agent.wire.messages import CloseLease, Push, RenewLease, Reply, Request
from holdfast_manager.catalog.catalog import Catalog

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Reply)
OnPush = Callable[[str, Push | AgentLost], None]


class AgentPool:
    """Connects to an agent when it is first needed and again after it was lost; opens the lease each time.

    Thread-safe. ``on_push(agent, push)`` is called in the connection's own thread and must return quickly.
    """

    def __init__(self, catalog: Catalog, keys: KeyPair, lease: str, ttl_s: float, on_push: OnPush) -> None:
        self.lease = lease
        self._catalog = catalog
        self._keys = keys
        self._ttl_s = ttl_s
        self._on_push = on_push
        self._lock = threading.Lock()
        self._connecting: dict[str, threading.Lock] = {}
        self._clients: dict[str, ControlClient] = {}

    def ask(self, agent: str, request: Request, expect: type[R], timeout_s: float | None = None) -> R:
        """Send ``request`` and return its reply of the type ``expect``.

        Raises what the agent raised, ``Unreachable`` or ``ConnectionLost`` (both retryable), or ``NotFound`` for an
        agent that the catalogue does not know.
        """
        reply = self._client(agent).call(request, timeout_s)
        if not isinstance(reply, expect):
            raise MalformedMessage(peer=agent, reason=f"{type(reply).__name__} in answer to {type(request).__name__}")
        return reply

    def addresses(self, agent: str) -> tuple[str, ...]:
        """By which its movers are reached, the first one first; none of an agent that is older. Raises as ``ask``."""
        return self._client(agent).hello.addresses

    def understands(self, agent: str, minor: int) -> bool:
        """Whether it knows what this minor version of the protocol brought. Raises as ``ask``."""
        return self._client(agent).hello.minor >= minor

    def renew(self) -> None:
        """Prolong the lease at every connected agent; called by :class:`LeaseKeeper`. Failures show as AgentLost."""
        with self._lock:
            clients = list(self._clients.values())
        for client in clients:
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

    def _client(self, agent: str) -> ControlClient:
        with self._lock:
            client = self._clients.get(agent)
            gate = self._connecting.setdefault(agent, threading.Lock())
        if client is not None:
            return client
        with gate:
            with self._lock:
                client = self._clients.get(agent)
            return client if client is not None else self._connect(agent)

    def _connect(self, agent: str) -> ControlClient:
        entry = self._catalog.agents.get(agent)
        client = ControlClient(
            entry.endpoint, entry.public_key, self._keys, lambda push: self._deliver(agent, client, push)
        )
        try:
            client.connect()
        except Unreachable as error:  # people know it by its name
            fields = {**error.fields, "peer": f"agent {agent} at {entry.endpoint.removeprefix('tcp://')}"}
            raise Unreachable(**fields) from error
        try:
            client.call(RenewLease(lease=self.lease, ttl_s=self._ttl_s))
        except BaseException:
            client.close()
            raise
        with self._lock:
            self._clients[agent] = client
        if not client.live:  # lost again before it was known here, so that nobody could forget it
            self._forget(agent, client)
        return client

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
