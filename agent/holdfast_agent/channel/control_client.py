"""The manager's side of the control channel: one connection to one agent."""

from __future__ import annotations

import time
from collections.abc import Callable

import holdfast_agent
from holdfast_agent.errors import ConnectionLost, UsageError, VersionMismatch
from holdfast_agent.wire import codec
from holdfast_agent.wire.messages import Hello, HelloReply, Push
from holdfast_agent.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

from .authentication import KeyPair
from .request_client import CALL_TIMEOUT_S, PeerLost, RequestClient

__all__ = ("CALL_TIMEOUT_S", "AgentLost", "ControlClient")

AgentLost = PeerLost
"""The peer is an agent here."""


class ControlClient(RequestClient):
    """One authenticated connection to an agent. A client that lost its agent stays lost: make a new one, then renew
    the lease to adopt its movers."""

    def __init__(
        self,
        endpoint: str,
        server_key: str,
        keys: KeyPair,
        on_push: Callable[[Push | AgentLost], None],
        timeout_s: float = 10.0,
    ) -> None:
        """Nothing is sent yet. Raises :class:`UsageError` for an endpoint or a key that cannot be one."""
        super().__init__(endpoint, server_key, keys, on_push, codec.decode_from_agent, timeout_s)
        self._hello: HelloReply | None = None

    @property
    def hello(self) -> HelloReply:
        """What the agent said of itself at connecting."""
        if self._hello is None:
            raise UsageError(reason="the client is not connected")
        return self._hello

    def _greet(self, timeout_s: float) -> None:
        hello = Hello(
            major=PROTOCOL_MAJOR, minor=PROTOCOL_MINOR, software=holdfast_agent.__version__, clock=time.time()
        )
        reply = self.call(hello, timeout_s)
        if not isinstance(reply, HelloReply):
            raise ConnectionLost(peer=self.endpoint, reason=f"it answered Hello by {type(reply).__name__}")
        if reply.major != PROTOCOL_MAJOR:
            raise VersionMismatch(theirs=reply.major, ours=PROTOCOL_MAJOR, peer=self.endpoint)
        self._hello = reply
