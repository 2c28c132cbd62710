"""A declarative file as values: servers, agents, repositories and jobs by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from holdfast_agent.errors import ConfigInvalid
from holdfast_agent.model import strict
from holdfast_manager.catalog.job_tables import job_from_table
from holdfast_manager.catalog.rule_tables import REPOSITORY_LIMITS, group_from_table, rule_from_table
from holdfast_manager.catalog.values import (
    JobSpec,
    Name,
    Rate,
    RepositoryGroup,
    ServerLimits,
    TrafficRule,
    check_network,
)
from holdfast_manager.quantities import with_numbers

T = TypeVar("T", bound=msgspec.Struct)
Slots = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class ServerTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[servers.NAME]``. ``secret_file``: lines KEY=VALUE, relative to the declarative file; empty: no credentials."""

    plugin: str
    options: dict[str, Any] = {}
    secret_file: str = ""
    limits: ServerLimits | None = None


class AgentTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[agents.NAME]``. Slots that are left out are what the agent says (and stay what they are later)."""

    endpoint: str
    public_key: str
    proxy_slots: Slots | None = None
    repository_slots: Slots | None = None
    enabled: bool = True


class RepositoryTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[repositories.NAME]``. ``create``: make it where there is none yet. ``passphrase_file``: its first line.

    ``read_limit`` and ``write_limit``: bytes per second of all tasks together.
    """

    agent: Name
    path: str
    encryption: bool = True
    passphrase_file: str = ""
    create: bool = True
    slots: Slots = 4
    read_limit: Rate | None = None
    write_limit: Rate | None = None


class NetworkTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[network]``. ``preferred``: networks that movers connect by, the most wanted first."""

    preferred: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for network in self.preferred:
            check_network(network)


Tables = dict[str, dict[str, Any]]


class _Sections(msgspec.Struct, frozen=True):
    """The file as it stands. None: the file says nothing of this kind, so that pruning leaves it alone."""

    servers: Tables | None = None
    agents: Tables | None = None
    repositories: Tables | None = None
    repository_groups: Tables | None = None
    jobs: Tables | None = None
    traffic_rules: Tables | None = None
    network: NetworkTable | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was read. ``sections`` are the kinds that it speaks of."""

    file: Path
    sections: frozenset[str]
    servers: dict[str, ServerTable]
    agents: dict[str, AgentTable]
    repositories: dict[str, RepositoryTable]
    repository_groups: dict[str, RepositoryGroup]
    jobs: dict[str, JobSpec]
    traffic_rules: dict[str, TrafficRule]
    network: NetworkTable | None

    def beside(self, name: str) -> Path:
        """The file ``name``, relative to the directory of this one."""
        return self.file.parent / Path(name).expanduser()


def read_document(file: Path) -> Document:
    """Read and check the file by itself. Raises ``ConfigError`` with file, key and the nearest known key."""
    table = strict.read_toml(file)
    sections = strict.convert(table, _Sections, str(file))
    return Document(
        file=file,
        sections=frozenset(table),
        servers=_read(file, "servers", sections.servers, ServerTable),
        agents=_read(file, "agents", sections.agents, AgentTable),
        repositories=_read(file, "repositories", _limited(file, sections.repositories), RepositoryTable),
        repository_groups={
            name: _group(file, name, group) for name, group in (sections.repository_groups or {}).items()
        },
        jobs={name: _job(file, name, job) for name, job in (sections.jobs or {}).items()},
        traffic_rules={name: _rule(file, name, rule) for name, rule in (sections.traffic_rules or {}).items()},
        network=sections.network,
    )


def _read(file: Path, kind: str, tables: Tables | None, to: type[T]) -> dict[str, T]:
    found = {}
    for name, table in (tables or {}).items():
        _check_name(file, kind, name)
        found[name] = strict.convert(table, to, f"{file}: {kind}.{name}")
    return found


def _limited(file: Path, tables: Tables | None) -> Tables | None:
    """The repositories with their limits as numbers."""
    if tables is None:
        return None
    return {
        name: with_numbers(table, REPOSITORY_LIMITS, f"{file}: repositories.{name}") for name, table in tables.items()
    }


def _job(file: Path, name: str, table: dict[str, Any]) -> JobSpec:
    return job_from_table(*_named(file, "jobs", name, table))


def _group(file: Path, name: str, table: dict[str, Any]) -> RepositoryGroup:
    return group_from_table(*_named(file, "repository_groups", name, table))


def _rule(file: Path, name: str, table: dict[str, Any]) -> TrafficRule:
    return rule_from_table(*_named(file, "traffic_rules", name, table))


def _named(file: Path, kind: str, name: str, table: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A table with its name in it, and what errors call it."""
    _check_name(file, kind, name)
    source = f"{file}: {kind}.{name}"
    if "name" in table:
        raise ConfigInvalid(file=source, key="name", reason=f"the name stands in the heading, [{kind}.NAME]")
    return {**table, "name": name}, source


def _check_name(file: Path, kind: str, name: str) -> None:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        reason = "a name is 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit"
        raise ConfigInvalid(file=str(file), key=f"{kind}.{name}", reason=reason) from error
