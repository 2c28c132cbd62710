"""From a document and the catalogue to a plan. Everything that can be checked is checked here, before any change.

A plan talks to new agents and to the agents of new repositories: what is unreachable, refused or wrong there fails
the plan, not its execution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import Locked
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.job_tables import job_to_table
from holdfast_manager.catalog.rule_tables import rule_to_table
from holdfast_manager.catalog.values import JobSpec, RepositoryGroup, ServerEntry, TrafficRule
from holdfast_manager.enrolment.secret_files import read_env_file
from holdfast_manager.host import PluginHost
from holdfast_manager.schedules.schedule import in_order_of_chains
from holdfast_plugins.api.registry import Family

from .agent_plan import AgentPlan
from .changes import Action, Change, Difference, differences, flat
from .document import Document, ServerTable
from .references import References
from .repository_plan import RepositoryPlan

_KINDS = {
    "agents": "agent",
    "servers": "server",
    "repositories": "repository",
    "repository_groups": "repository group",
    "jobs": "job",
    "traffic_rules": "traffic rule",
}


class Planner:
    """Makes one plan. Used once."""

    def __init__(self, document: Document, catalog: Catalog, host: PluginHost, keys: KeyPair) -> None:
        self._document = document
        self._catalog = catalog
        self._host = host
        self._keys = keys
        self._present = {
            "agents": {entry.name for entry in catalog.agents.list()},
            "servers": {entry.name for entry in catalog.servers.list()},
            "repositories": {entry.name for entry in catalog.repositories.list()},
            "repository_groups": {group.name for group in catalog.groups.list()},
            "jobs": {spec.name for spec in catalog.jobs.list()},
            "traffic_rules": {rule.name for rule in catalog.traffic_rules.list()},
        }
        self._wished = {kind: set(getattr(document, kind)) for kind in _KINDS}

    def plan(self, prune: bool) -> list[Change]:
        """All changes in the order in which they can be carried out: what others refer to comes first.

        Raises ``ConfigError`` with file and key for what stands wrong in the file, and what agents answer.
        """
        gone = {kind: self._gone(kind) if prune else set() for kind in _KINDS}
        left = {kind: (self._present[kind] - gone[kind]) | self._wished[kind] for kind in _KINDS}
        References(self._document, self._catalog, left).check()
        agents = AgentPlan(self._document, self._catalog, self._keys)
        changes = [agents.change(name) for name in sorted(self._document.agents)]
        changes += [self._server(name, table) for name, table in sorted(self._document.servers.items())]
        repositories = RepositoryPlan(self._document, self._catalog, self._keys, agents.entries)
        changes += [repositories.change(name) for name in sorted(self._document.repositories)]
        changes += [self._group(name, group) for name, group in sorted(self._document.repository_groups.items())]
        changes += [self._job(name, self._document.jobs[name]) for name in in_order_of_chains(self._after())]
        changes += [self._rule(name, rule) for name, rule in sorted(self._document.traffic_rules.items())]
        changes += self._network()
        return changes + self._removals(gone)

    def _gone(self, kind: str) -> set[str]:
        """A kind of which the file says nothing is not the file's business."""
        return self._present[kind] - self._wished[kind] if kind in self._document.sections else set()

    def _after(self) -> dict[str, str]:
        """The jobs of the file, and which other each comes after."""
        specs = self._document.jobs.items()
        return {name: spec.schedule.after if spec.schedule is not None else "" for name, spec in specs}

    def _server(self, name: str, table: ServerTable) -> Change:
        source = f"{self._document.file}: servers.{name}.options"
        self._host.check_options(Family.HYPERVISOR, table.plugin, table.options, source)
        secret = read_env_file(self._document.beside(table.secret_file)) if table.secret_file else {}
        entry = ServerEntry(name=name, plugin=table.plugin, options=table.options, limits=table.limits)
        servers = self._catalog.servers
        if name not in self._present["servers"]:
            return Change("server", name, Action.CREATE, carry_out=lambda: servers.add(entry, secret or None))
        old = servers.get(name)
        found = differences(_server_table(old), _server_table(entry))
        # without a secret_file the file does not speak of credentials: those that are kept stay
        if table.secret_file and secret != servers.secret(name):
            found += (Difference("secret", "(secret)", "(another secret)"),)

        def carry_out() -> None:
            servers.update(entry)
            if table.secret_file:
                servers.set_secret(name, secret or None)

        return _changed("server", name, found, carry_out)

    def _job(self, name: str, spec: JobSpec) -> Change:
        self._check_plugin_options(name, spec)
        jobs = self._catalog.jobs
        if name not in self._present["jobs"]:
            return Change("job", name, Action.CREATE, carry_out=lambda: jobs.add(spec))
        found = differences(flat(job_to_table(jobs.get(name))), flat(job_to_table(spec)))
        return _changed("job", name, found, lambda: jobs.update(spec))

    def _check_plugin_options(self, name: str, spec: JobSpec) -> None:
        source = f"{self._document.file}: jobs.{name}"
        if spec.server is not None:
            self._host.snapshot_options(self._plugin_of(spec.server), spec.snapshot, f"{source}.snapshot")
        if spec.guest is not None:
            where = f"{source}.guest.options"
            self._host.check_options(Family.GUEST_PROCESSOR, spec.guest.processor, spec.guest.options, where)

    def _group(self, name: str, group: RepositoryGroup) -> Change:
        groups = self._catalog.groups
        new = msgspec.structs.replace(group, members=tuple(sorted(group.members)))
        if name not in self._present["repository_groups"]:
            return Change("repository group", name, Action.CREATE, carry_out=lambda: groups.add(new))
        found = differences(flat(msgspec.to_builtins(groups.get(name))), flat(msgspec.to_builtins(new)))
        return _changed("repository group", name, found, lambda: groups.update(new))

    def _rule(self, name: str, rule: TrafficRule) -> Change:
        rules = self._catalog.traffic_rules
        if name not in self._present["traffic_rules"]:
            return Change("traffic rule", name, Action.CREATE, carry_out=lambda: rules.add(rule))
        found = differences(flat(rule_to_table(rules.get(name))), flat(rule_to_table(rule)))
        return _changed("traffic rule", name, found, lambda: rules.update(rule))

    def _network(self) -> list[Change]:
        table, rules = self._document.network, self._catalog.traffic_rules
        if table is None:
            return []
        found = differences({"preferred": list(rules.preferred())}, {"preferred": list(table.preferred)})
        return [_changed("network", "preferences", found, lambda: rules.prefer(table.preferred))]

    def _plugin_of(self, server: str) -> str:
        table = self._document.servers.get(server)
        return table.plugin if table is not None else self._catalog.servers.get(server).plugin

    def _removals(self, gone: Mapping[str, set[str]]) -> list[Change]:
        """Users before what they use."""
        catalog = self._catalog
        catalog.sessions.reap_dead()
        for session in catalog.sessions.living():
            if session.job in gone["jobs"]:
                raise Locked(what=f"job {session.job!r}", holder=f"session {session.id}")
        removers = {
            "traffic_rules": catalog.traffic_rules.remove,
            "jobs": catalog.jobs.remove,
            "repository_groups": catalog.groups.remove,
            "repositories": catalog.repositories.remove,
            "servers": catalog.servers.remove,
            "agents": catalog.agents.remove,
        }
        return [
            Change(_KINDS[kind], name, Action.REMOVE, carry_out=_call(remove, name), note=_NOTES.get(kind, ""))
            for kind, remove in removers.items()
            for name in (self._last_first(gone[kind]) if kind == "jobs" else sorted(gone[kind]))
        ]

    def _last_first(self, gone: set[str]) -> list[str]:
        """Jobs to be removed: each before the one that it comes after."""
        specs = [self._catalog.jobs.get(name) for name in gone]
        return in_order_of_chains({spec.name: spec.schedule.after if spec.schedule else "" for spec in specs})[::-1]


_NOTES = {
    "repositories": "its data stays",
    "repository_groups": "its repositories stay",
    "jobs": "its restore points stay",
}


def apply_changes(changes: Iterable[Change]) -> None:
    """Carry a plan out, in its order. Should it break off, applying the same file again does the rest."""
    for change in changes:
        if change.action is not Action.UNCHANGED:
            change.carry_out()


def _call(function: Any, name: str) -> Any:
    return lambda: function(name)


def _changed(kind: str, name: str, found: tuple[Difference, ...], carry_out: Any) -> Change:
    return Change(kind, name, Action.CHANGE if found else Action.UNCHANGED, found, carry_out=carry_out)


def _server_table(entry: ServerEntry) -> dict[str, Any]:
    return flat(msgspec.to_builtins(msgspec.structs.replace(entry, has_secret=False)))
