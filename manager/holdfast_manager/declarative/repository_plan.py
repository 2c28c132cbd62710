"""Repositories of a plan: found and unlocked where they exist, made where they do not; moved when the file says so."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import ConfigInvalid, RepositoryNotFound
from holdfast_agent.wire.messages import RepositoryFacts
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import AgentEntry, RepositoryEntry
from holdfast_manager.enrolment import repositories
from holdfast_manager.enrolment.points import asking, rescan
from holdfast_manager.enrolment.secret_files import read_secret_file

from .changes import Action, Change, differences
from .document import Document, RepositoryTable


class RepositoryPlan:
    """``agents``: all agents as they will be."""

    def __init__(self, document: Document, catalog: Catalog, keys: KeyPair, agents: Mapping[str, AgentEntry]) -> None:
        self._document = document
        self._catalog = catalog
        self._keys = keys
        self._agents = agents
        self._present = {entry.name: entry for entry in catalog.repositories.list()}

    def change(self, name: str) -> Change:
        """Raises ``ConfigError``, and what the repository's agent answers."""
        table, old = self._document.repositories[name], self._present.get(name)
        if old is not None:
            return self._known(table, old)
        passphrase = self._passphrase(name, table)
        try:
            facts = repositories.facts_of(self._agents[table.agent], table.path, self._keys)
        except RepositoryNotFound:
            if not table.create:
                raise
            return self._new(name, table, passphrase)
        return self._found(name, table, facts, passphrase)

    def _known(self, table: RepositoryTable, old: RepositoryEntry) -> Change:
        if table.encryption != old.encrypted:
            reason = "whether a repository is encrypted is settled when it is made; make another one"
            raise self._wrong(old.name, "encryption", reason)
        new = msgspec.structs.replace(
            old,
            agent=table.agent,
            path=table.path,
            slots=table.slots,
            read_limit_bytes_per_s=table.read_limit,
            write_limit_bytes_per_s=table.write_limit,
        )
        if (new.agent, new.path) != (old.agent, old.path):
            facts = repositories.facts_of(self._agents[new.agent], new.path, self._keys)
            repositories.require_same(new, facts)
        found = differences(msgspec.to_builtins(old), msgspec.to_builtins(new))
        action = Action.CHANGE if found else Action.UNCHANGED
        return Change("repository", old.name, action, found, carry_out=lambda: self._catalog.repositories.update(new))

    def _new(self, name: str, table: RepositoryTable, passphrase: str | None) -> Change:
        def carry_out() -> None:
            opened = repositories.create(self._agents[table.agent], table.path, passphrase, self._keys)
            self._add(name, table, opened)

        sealed = "encrypted" if table.encryption else "not encrypted"
        return Change("repository", name, Action.CREATE, note=f"made anew, {sealed}", carry_out=carry_out)

    def _found(self, name: str, table: RepositoryTable, facts: RepositoryFacts, passphrase: str | None) -> Change:
        repositories.require_unknown(self._present.values(), self._agents[table.agent], facts)
        if repositories.is_encrypted(facts) != table.encryption:
            state = "not encrypted" if table.encryption else "encrypted"
            raise self._wrong(name, "encryption", f"there is a repository at {table.path}, and it is {state}")
        opened = repositories.Opened(facts, repositories.unlock(facts, name, passphrase))

        def carry_out() -> None:
            self._add(name, table, opened)
            with asking(self._catalog, name, self._keys) as ask:
                rescan(self._catalog, name, ask, time.time())

        return Change("repository", name, Action.CREATE, note="exists already, opened", carry_out=carry_out)

    def _add(self, name: str, table: RepositoryTable, opened: repositories.Opened) -> None:
        entry = RepositoryEntry(
            name=name,
            agent=table.agent,
            path=table.path,
            repository_id=opened.facts.repository_id,
            encrypted=opened.master is not None,
            slots=table.slots,
            read_limit_bytes_per_s=table.read_limit,
            write_limit_bytes_per_s=table.write_limit,
        )
        self._catalog.repositories.add(entry, None if opened.master is None else opened.master.reveal())

    def _passphrase(self, name: str, table: RepositoryTable) -> str | None:
        if not table.encryption:
            return None
        if not table.passphrase_file:
            reason = "an encrypted repository needs one; or write encryption = false"
            raise self._wrong(name, "passphrase_file", reason)
        return read_secret_file(self._document.beside(table.passphrase_file))

    def _wrong(self, name: str, key: str, reason: str) -> ConfigInvalid:
        return ConfigInvalid(file=str(self._document.file), key=f"repositories.{name}.{key}", reason=reason)
