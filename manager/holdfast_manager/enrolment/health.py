"""How an agent is, as it says itself."""

from __future__ import annotations

import time

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import UnknownMessage
from holdfast_agent.wire.messages import AskHealth, Health, HelloReply
from holdfast_manager.catalog.values import AgentEntry

from .agents import CONNECT_TIMEOUT_S, connected
from .repositories import expect


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself now. ``clock_ahead_s``: of the manager's, None for agents that do not tell (before
    protocol 1.3); ``answered_s``: how long an answer took, within which the difference is known."""

    hello: HelloReply
    health: Health | None = None
    clock_ahead_s: float | None = None
    answered_s: float = 0.0


def ask_state(entry: AgentEntry, keys: KeyPair, timeout_s: float = CONNECT_TIMEOUT_S) -> AgentState:
    """Connect and ask. Raises as ``ControlClient.connect``."""
    with connected(entry.endpoint, entry.public_key, keys, timeout_s) as client:
        asked = time.time()
        try:
            health = expect(client.call(AskHealth()), Health)
        except UnknownMessage:
            return AgentState(hello=client.hello)
        answered = time.time()
        return AgentState(
            hello=client.hello,
            health=health,
            clock_ahead_s=health.clock - (asked + answered) / 2,
            answered_s=answered - asked,
        )
