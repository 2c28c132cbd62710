"""A repository as a whole, and its keys."""

from __future__ import annotations

import msgspec

from .base import Reply, Request


class KeySlot(msgspec.Struct, frozen=True):
    """A wrapped master key. The agent stores and returns it and cannot open it."""

    name: str
    body: bytes


class CreateRepository(Request, frozen=True, tag=True, kw_only=True):
    """Make a repository in an empty or absent directory below one that the agent's configuration allows."""

    repository: str
    repository_id: str
    slots: tuple[KeySlot, ...]


class AddKeySlot(Request, frozen=True, tag=True, kw_only=True):
    """Store one more wrapped master key, as :class:`RepositoryFacts`. A slot's name is never used again."""

    repository: str
    slot: KeySlot


class RemoveKeySlot(Request, frozen=True, tag=True, kw_only=True):
    """Let a slot open nothing any more, as :class:`RepositoryFacts`. Refused for the last one."""

    repository: str
    slot: str


class RaiseKeyEpoch(Request, frozen=True, tag=True, kw_only=True):
    """Have new records sealed under a later key epoch, as :class:`RepositoryFacts`. Idempotent; never lowered."""

    repository: str
    epoch: int


class OpenRepository(Request, frozen=True, tag=True, kw_only=True):
    """Check that a repository is there; also clears what dead writers left behind."""

    repository: str


class RepositoryFacts(Reply, frozen=True, tag=True, kw_only=True):
    repository_id: str
    slots: tuple[KeySlot, ...]
    total_bytes: int
    free_bytes: int
    epoch: int = 1


class RebuildIndex(Request, frozen=True, tag=True, kw_only=True):
    """Throw the local index away and rebuild it from the repository itself."""

    repository: str


class IndexRebuilt(Reply, frozen=True, tag=True, kw_only=True):
    records: int
