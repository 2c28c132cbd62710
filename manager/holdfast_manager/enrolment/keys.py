"""Key slots and the paper key of a repository: made and opened here, where the master key is; the agent only stores."""

from __future__ import annotations

import re

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import AlreadyExists, HoldfastError, PointNotAuthentic, UsageError, WrongKey
from holdfast_agent.model.points import PointEntry
from holdfast_agent.sealing import slots
from holdfast_agent.sealing.keys import MasterKey, RepositoryKeys
from holdfast_agent.sealing.paper import decode_paper
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.sealing.slots import DEFAULT_MEMORY_KIB, SlotFacts
from holdfast_agent.wire.messages import (
    AddKeySlot,
    KeySlot,
    ListPoints,
    PointList,
    RaiseKeyEpoch,
    RemoveKeySlot,
    Reply,
    RepositoryFacts,
)
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import AgentEntry, RepositoryEntry

from .agents import connected
from .repositories import expect, facts_of, require_same

_NUMBERED = re.compile(r"slot-(\d+)")
_TRIES = 100


class Changed(msgspec.Struct, frozen=True):
    """``added`` opens the repository from now on; ``removed`` does not any more ("": none)."""

    added: str
    removed: str = ""


class KeyRing:
    """The slots of one repository. Every method asks the agent anew and may raise what the channel raises."""

    def __init__(self, catalog: Catalog, name: str, keys: KeyPair, memory_kib: int = DEFAULT_MEMORY_KIB) -> None:
        """Raises ``NotFound``, and :class:`UsageError` for a repository that is not encrypted."""
        self.entry: RepositoryEntry = catalog.repositories.get(name)
        if not self.entry.encrypted:
            raise UsageError(reason=f"the repository {name!r} is not encrypted: it has no keys")
        self._catalog = catalog
        self._agent: AgentEntry = catalog.agents.get(self.entry.agent)
        self._keys = keys
        self._memory_kib = memory_kib

    def master(self) -> MasterKey:
        """The key that the manager keeps. Raises :class:`WrongKey` when it keeps none."""
        secret = self._catalog.repositories.master_key(self.entry.name)
        if secret is None:
            raise WrongKey(name=f"the repository {self.entry.name}", reason="the manager does not keep its master key")
        return MasterKey(secret)

    def facts(self) -> RepositoryFacts:
        """What the agent says of the repository. Raises :class:`WrongKey` when another one is there."""
        facts = facts_of(self._agent, self.entry.path, self._keys)
        require_same(self.entry, facts)
        return facts

    def listed(self) -> list[tuple[str, SlotFacts | HoldfastError]]:
        """Every slot with what it says of itself, or what is wrong with it."""
        return [(slot.name, _facts_of_slot(slot)) for slot in self.facts().slots]

    def add(self, passphrase: str, name: str | None = None) -> Changed:
        """One more slot. ``name`` None: the next number. Raises ``AlreadyExists``: names are never used again.

        Takes about half a second and 256 MiB of memory.
        """
        facts = self.facts()
        body = slots.wrap_master(self.master(), passphrase, facts.repository_id, memory_kib=self._memory_kib)
        if name is not None:
            self._ask(AddKeySlot(repository=self.entry.path, slot=KeySlot(name, body)))
            return Changed(name)
        first = 1 + max([1, *(_number(slot.name) for slot in facts.slots)])
        for number in range(first, first + _TRIES):
            try:
                self._ask(AddKeySlot(repository=self.entry.path, slot=KeySlot(f"slot-{number}", body)))
            except AlreadyExists:
                continue  # of a slot that was removed
            return Changed(f"slot-{number}")
        raise UsageError(reason="no free number for a slot was found; give a name by --slot")

    def change(self, passphrase: str, old: str | None = None) -> Changed:
        """A new slot in the place of ``old`` (None: of the only one), which opens the repository until then.

        Raises :class:`UsageError` for a slot that is not there, or where it must be named.
        """
        names = [slot.name for slot in self.facts().slots]
        if old is None and len(names) != 1:
            raise UsageError(reason=f"there are {len(names)} slots ({', '.join(names)}); say which one to change")
        replaced = old if old is not None else names[0]
        if replaced not in names:
            raise UsageError(reason=f"there is no slot {replaced!r}; there are {', '.join(names)}")
        added = self.add(passphrase).added
        bodies = {slot.name: slot.body for slot in self.facts().slots}
        if added not in slots.slots_opened({added: bodies.get(added, b"")}, passphrase, self.entry.repository_id):
            raise WrongKey(name=f"the slot {added}", reason="the new passphrase does not open what the agent stored")
        self.remove(replaced)
        return Changed(added, replaced)

    def remove(self, name: str) -> Changed:
        """Let a slot open nothing any more. Raises ``NotFound``, and ``UsageError`` for the last one."""
        self._ask(RemoveKeySlot(repository=self.entry.path, slot=name))
        return Changed("", name)

    def rotate(self) -> int:
        """Have new records sealed under the next key epoch; returns it. Records of all epochs stay readable.

        Raises :class:`WrongKey` when the manager does not keep the master key, :class:`UsageError` at the last epoch.
        """
        self.master()
        known = max(self.facts().epoch, self._catalog.repositories.epoch(self.entry.name))
        facts = expect(self._ask(RaiseKeyEpoch(repository=self.entry.path, epoch=known + 1)), RepositoryFacts)
        if facts.epoch <= known:
            raise WrongKey(name=f"the repository {self.entry.name!r}", reason="its agent did not take the new epoch")
        self._catalog.repositories.raise_epoch(self.entry.name, facts.epoch)
        return facts.epoch

    def from_paper(self, text: str) -> MasterKey:
        """The master key of a paper key for this repository.

        Raises ``PaperKeyWrong`` for a slip, and :class:`WrongKey` for another repository's paper or one whose key opens
        none of the restore points that are there.
        """
        repository_id = self.entry.repository_id
        master = master_of_paper(text, repository_id, self.entry.name)
        self.facts()
        reply = expect(self._ask(ListPoints(repository=self.entry.path)), PointList)
        keys = RepositoryKeys.derive(master, repository_id)
        if reply.points and not any(_authentic(entry, keys) for entry in reply.points):
            reason = "no restore point there is authentic under the key of the paper"
            raise WrongKey(name=f"the repository {self.entry.name!r}", reason=reason)
        return master

    def _ask(self, request: AddKeySlot | RemoveKeySlot | RaiseKeyEpoch | ListPoints) -> Reply:
        with connected(self._agent.endpoint, self._agent.public_key, self._keys) as client:
            return client.call(request)


def master_of_paper(text: str, repository_id: str, name: str) -> MasterKey:
    """The master key of a paper key for the repository ``name`` with this id.

    Raises ``PaperKeyWrong`` for a slip, :class:`WrongKey` for the paper of another repository.
    """
    master, found = decode_paper(text)
    if found != repository_id:
        raise WrongKey(name=f"the repository {name!r}", reason=f"the paper is of another repository ({found})")
    return master


def _facts_of_slot(slot: KeySlot) -> SlotFacts | HoldfastError:
    try:
        return slots.slot_facts(slot.name, slot.body)
    except HoldfastError as error:
        return error


def _number(name: str) -> int:
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else 0


def _authentic(entry: PointEntry, keys: RepositoryKeys) -> bool:
    try:
        open_point(entry, keys)
    except PointNotAuthentic:
        return False
    return True
