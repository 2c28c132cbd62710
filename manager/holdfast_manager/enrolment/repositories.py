"""Repositories: making one on an agent, and opening an existing one. Master keys never leave this side."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import ControlClient
from holdfast_agent.errors import MalformedMessage, RoleMissing, UsageError, WrongKey, WrongPassphrase
from holdfast_agent.sealing import slots
from holdfast_agent.sealing.keys import MasterKey
from holdfast_agent.wire.messages import (
    CreateRepository,
    IndexRebuilt,
    KeySlot,
    OpenRepository,
    RebuildIndex,
    Reply,
    RepositoryFacts,
)
from holdfast_manager.catalog.values import AgentEntry, AgentRole, RepositoryEntry

from .agents import connected

R = TypeVar("R", bound=Reply)
FIRST_SLOT = "first"
_REBUILD_TIMEOUT_S = 86400.0  # it reads the header of every record; a big repository on slow disks takes hours


class Opened(msgspec.Struct, frozen=True):
    """A repository that is there and whose key we have. ``master`` None: it is not encrypted."""

    facts: RepositoryFacts
    master: MasterKey | None


def require_role(agent: AgentEntry, role: AgentRole) -> None:
    """Raise :class:`RoleMissing` unless ``agent`` said that it has ``role``."""
    if role not in agent.roles:
        raise RoleMissing(agent=agent.name, role=role.value, type="this command")


def create(agent: AgentEntry, path: str, passphrase: str | None, keys: KeyPair) -> Opened:
    """Make a new repository; ``passphrase`` None leaves it unencrypted.

    Its random master key is wrapped here (argon2id: about half a second and 256 MiB of memory); the agent is handed
    the wrapped form only. Raises ``RepositoryExists``, ``RepositoryDenied`` and what the channel raises.
    """
    require_role(agent, AgentRole.REPOSITORY)
    repository_id = secrets.token_hex(16)
    master = None if passphrase is None else MasterKey.generate()
    body = (
        slots.public_slot(repository_id)
        if master is None or passphrase is None
        else slots.wrap_master(master, passphrase, repository_id)
    )
    with connected(agent.endpoint, agent.public_key, keys) as client:
        client.call(CreateRepository(repository=path, repository_id=repository_id, slots=(KeySlot(FIRST_SLOT, body),)))
        facts = _facts(client, path)
    if facts.repository_id != repository_id:
        raise WrongKey(name=path, reason="the agent made it under another id than it was asked for")
    return Opened(facts, master)


def facts_of(agent: AgentEntry, path: str, keys: KeyPair) -> RepositoryFacts:
    """What the agent says of the repository at ``path``. Raises ``RepositoryNotFound`` and others."""
    require_role(agent, AgentRole.REPOSITORY)
    with connected(agent.endpoint, agent.public_key, keys) as client:
        return _facts(client, path)


def is_encrypted(facts: RepositoryFacts) -> bool:
    """Whether the repository says that it is encrypted: none of its slots is public."""
    return not any(slots.is_public(slot.body) for slot in facts.slots)


def unlock(facts: RepositoryFacts, name: str, passphrase: str | None) -> MasterKey | None:
    """The master key of an existing repository; None when it is not encrypted.

    ``passphrase`` None only opens a repository that is not encrypted. Raises ``WrongPassphrase`` naming ``name``.
    """
    bodies = {slot.name: slot.body for slot in facts.slots}
    try:
        master = slots.open_slots(bodies, passphrase, facts.repository_id)
    except WrongPassphrase as error:
        raise WrongPassphrase(name=name) from error
    return None if master.public else master


def require_same(entry: RepositoryEntry, facts: RepositoryFacts) -> None:
    """Raise :class:`WrongKey` when another repository is found where ``entry`` was: a wrong mount, or an exchange."""
    if facts.repository_id != entry.repository_id:
        reason = f"there is another repository at {entry.path} now ({facts.repository_id})"
        raise WrongKey(name=f"the repository {entry.name!r}", reason=reason)


def require_unknown(known: Iterable[RepositoryEntry], agent: AgentEntry, facts: RepositoryFacts) -> None:
    """Raise :class:`UsageError` when one of ``known`` is this very repository: two would prune each other's points."""
    for entry in known:
        if entry.agent == agent.name and entry.repository_id == facts.repository_id:
            reason = f"that is the repository {entry.name!r} (at {entry.path} on agent {entry.agent}), known already"
            raise UsageError(
                reason=f"{reason}; `holdfast repository remove {entry.name}` forgets it, and keeps its points"
            )


def rebuild_index(agent: AgentEntry, path: str, keys: KeyPair) -> int:
    """Have the agent rebuild its local index; returns the number of records found."""
    with connected(agent.endpoint, agent.public_key, keys) as client:
        return expect(client.call(RebuildIndex(repository=path), _REBUILD_TIMEOUT_S), IndexRebuilt).records


def _facts(client: ControlClient, path: str) -> RepositoryFacts:
    return expect(client.call(OpenRepository(repository=path)), RepositoryFacts)


def expect(reply: Reply, kind: type[R]) -> R:
    """``reply``, which must be of ``kind``. Raises :class:`MalformedMessage` for an agent that answers beside it."""
    if not isinstance(reply, kind):
        raise MalformedMessage(peer="the agent", reason=f"it answered by {type(reply).__name__}, not {kind.__name__}")
    return reply
