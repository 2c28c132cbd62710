"""Starting an exporter for disks of a restore point, wherever its repository and its proxy are."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import msgspec

from holdfast_agent.model.points import DiskPoint
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.specs import AnySpec, BlockTree, ExportDisk, ExporterSpec, ReaderSpec
from holdfast_manager.catalog.values import RepositoryEntry

from .routing import Routing

Start = Callable[[str, str, AnySpec], tuple[str, ...]]
"""Starts a mover on an agent under a fresh name; where it listens."""


def start_exporter(
    start: Start, routing: Routing, repository: RepositoryEntry, proxy: str, spec: ExporterSpec
) -> tuple[str, ...]:
    """Start it, behind a reader mover where the repository is another agent's; the URIs of its disks.

    ``spec`` without where its records come from. Raises what starting movers raises.
    """
    token = secrets.token_hex(6)
    if proxy == repository.agent:
        return start(proxy, f"{token}-exporter", msgspec.structs.replace(spec, repository=repository.path))
    reader = ReaderSpec(task_id=spec.task_id, secret=spec.secret, repository=repository.path)
    endpoints = start(repository.agent, f"{token}-reader", reader)
    endpoints, _ = routing.choose(proxy, endpoints, False)
    return start(proxy, f"{token}-exporter", msgspec.structs.replace(spec, endpoints=endpoints))


def exported(disks: Sequence[DiskPoint]) -> tuple[ExportDisk, ...]:
    """The disks as an exporter is told of them."""
    return tuple(
        ExportDisk(name=name, tree=BlockTree(root_id(disk.root), disk.geometry))
        for name, disk in zip(export_names(disks), disks, strict=True)
    )


def export_names(disks: Sequence[DiskPoint]) -> list[str]:
    """What clients call the disks: their names, and their ids too where two have the same."""
    names = [disk.name for disk in disks]
    return [disk.name if names.count(disk.name) == 1 else f"{disk.name}-{disk.disk_id}" for disk in disks]
