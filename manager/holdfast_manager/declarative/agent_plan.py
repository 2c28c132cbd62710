"""Agents of a plan: new ones, and those with another endpoint or key, are connected to; others are left in peace."""

from __future__ import annotations

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import AgentEntry
from holdfast_manager.enrolment.agents import AgentWish, normal_endpoint, probe

from .changes import Action, Change, differences
from .document import AgentTable, Document


class AgentPlan:
    """``entries``: all agents as they will be, by name; complete once every change was asked for."""

    def __init__(self, document: Document, catalog: Catalog, keys: KeyPair) -> None:
        self._document = document
        self._catalog = catalog
        self._keys = keys
        self._present = {entry.name: entry for entry in catalog.agents.list()}
        self.entries: dict[str, AgentEntry] = dict(self._present)

    def change(self, name: str) -> Change:
        """Raises what connecting raises: an agent that does not answer fails the plan."""
        table, old = self._document.agents[name], self._present.get(name)
        agents = self._catalog.agents
        new = self._entry(name, table, old)
        self.entries[name] = new
        if old is None:
            roles = " and ".join(role.value for role in new.roles)
            return Change("agent", name, Action.CREATE, note=roles, carry_out=lambda: agents.add(new))
        found = differences(msgspec.to_builtins(old), msgspec.to_builtins(new))
        action = Action.CHANGE if found else Action.UNCHANGED
        return Change("agent", name, action, found, carry_out=lambda: agents.update(new))

    def _entry(self, name: str, table: AgentTable, old: AgentEntry | None) -> AgentEntry:
        endpoint = normal_endpoint(table.endpoint)
        if old is not None and (normal_endpoint(old.endpoint), old.public_key) == (endpoint, table.public_key):
            return msgspec.structs.replace(
                old,
                proxy_slots=table.proxy_slots or old.proxy_slots,
                repository_slots=table.repository_slots or old.repository_slots,
                enabled=table.enabled,
            )
        wish = AgentWish(
            name=name,
            endpoint=endpoint,
            public_key=table.public_key,
            proxy_slots=table.proxy_slots,
            repository_slots=table.repository_slots,
            enabled=table.enabled,
        )
        return probe(wish, self._keys)[0]
