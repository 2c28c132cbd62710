"""Agents: connecting to one, and what it says of itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from holdfast_agent.channel.authentication import KeyPair, check_public_key
from holdfast_agent.channel.control_client import ControlClient
from holdfast_agent.channel.enrolment_tokens import EnrolmentToken
from holdfast_agent.errors import RoleMissing, UsageError
from holdfast_agent.wire.messages import Enrol, HelloReply
from holdfast_manager.catalog.values import AgentEntry, AgentRole

DEFAULT_PORT = 8430
CONNECT_TIMEOUT_S = 10.0
"""A healthy agent answers in milliseconds; 10 s cover a slow line and a host that is just waking up."""


class AgentWish(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as somebody asks for it; ``None`` slots take what the agent says that its host is sized for."""

    name: str
    endpoint: str
    public_key: str
    proxy_slots: int | None = None
    repository_slots: int | None = None
    enabled: bool = True


def normal_endpoint(text: str) -> str:
    """ "tcp://HOST:PORT" of "HOST", "HOST:PORT" or "tcp://HOST:PORT". Raises :class:`UsageError`."""
    place = text.removeprefix("tcp://")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(DEFAULT_PORT)
    good = host and " " not in host and "/" not in host and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not good or (":" in host and not host.startswith("[")):
        raise UsageError(reason=f"{text!r} is not an agent's endpoint; write HOST, HOST:PORT or [IPv6]:PORT")
    return f"tcp://{host}:{port}"


@contextmanager
def connected(
    endpoint: str, public_key: str, keys: KeyPair, timeout_s: float = CONNECT_TIMEOUT_S
) -> Iterator[ControlClient]:
    """A connection for a few calls; pushes are of no interest here. Raises as ``ControlClient.connect``."""
    address = normal_endpoint(endpoint)
    with ControlClient(address, public_key, keys, lambda push: None, timeout_s) as client:
        yield client


def probe(wish: AgentWish, keys: KeyPair, timeout_s: float = CONNECT_TIMEOUT_S) -> tuple[AgentEntry, HelloReply]:
    """Connect, and make the entry of what the agent says. Raises ``Unreachable``, ``UsageError``, ``RoleMissing``."""
    check_public_key(wish.public_key)
    with connected(wish.endpoint, wish.public_key, keys, timeout_s) as client:
        hello = client.hello
    return entry_of(wish, hello), hello


def enrol(endpoint: str, token: EnrolmentToken, keys: KeyPair, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Have an agent admit this manager, by a one-time token. Raises ``Unreachable`` also for one that was used."""
    with connected(endpoint, token.agent_key, token.keys, timeout_s) as client:
        client.call(Enrol(key=keys.public, name=socket.gethostname()))


def entry_of(wish: AgentWish, hello: HelloReply) -> AgentEntry:
    """Raises :class:`RoleMissing` for an agent without any role: nothing could ever use it."""
    roles = tuple(AgentRole(role) for role in hello.roles if role in set(AgentRole))
    if not roles:
        raise RoleMissing(agent=wish.name, role="proxy or repository", type="`holdfast agent add`")
    return AgentEntry(
        name=wish.name,
        endpoint=normal_endpoint(wish.endpoint),
        public_key=wish.public_key,
        roles=roles,
        proxy_slots=wish.proxy_slots or hello.proxy_slots or 1,
        repository_slots=wish.repository_slots or hello.repository_slots or 1,
        enabled=wish.enabled,
    )


def hello_table(hello: HelloReply) -> dict[str, object]:
    """What people are told of an agent that answered."""
    return {
        "agent": hello.agent,
        "software": hello.software,
        "protocol": f"{hello.major}.{hello.minor}",
        "roles": list(hello.roles),
        "proxy_slots": hello.proxy_slots,
        "repository_slots": hello.repository_slots,
        "disk_schemes": [str(scheme) for scheme in hello.disk_schemes],
        "tools": list(hello.tools),
    }
