"""Which plugins there are, and in which order they are loaded. Nothing is imported before ``Candidate.load``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

ENTRY_POINT_GROUP = "holdfast.plugins"

BUILT_IN = (
    "holdfast_plugins.guest.qemu_agent",
    "holdfast_plugins.guest.scripts",
    "holdfast_plugins.guest.ssh",
    "holdfast_plugins.guest.vmware_tools",
    "holdfast_plugins.hypervisors.images",
    "holdfast_plugins.hypervisors.libvirt",
    "holdfast_plugins.hypervisors.qemu",
    "holdfast_plugins.hypervisors.vsphere",
    "holdfast_plugins.notifiers.smtp",
    "holdfast_plugins.notifiers.syslog",
    "holdfast_plugins.notifiers.webhook",
)
"""Modules that come with Holdfast. They enter by the same door as everybody else's, only first."""

_WITH_US = "built-in"
_HYPERVISORS = "holdfast_plugins.hypervisors."
"""Of these each provides one hypervisor, of its own name, and nothing for others."""


class Candidate(msgspec.Struct, frozen=True):
    """A plugin that may be loaded: the ``name`` by which a configuration disables it, and its origin for people."""

    name: str
    origin: str
    load: Callable[[], Any]


def candidates(extra: Sequence[str] = (), hypervisors: Collection[str] | None = None) -> Iterator[Candidate]:
    """Built-ins, then entry points by name, then the modules that the configuration names.

    The order is the same on every run, so that of two plugins that claim one name always the same one wins.
    ``hypervisors``: the only built-in ones that are wanted.
    """
    for module in BUILT_IN:
        name = module.rpartition(".")[2]
        if hypervisors is None or name in hypervisors or not module.startswith(_HYPERVISORS):
            yield Candidate(name, _WITH_US, _importer(module))
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: (point.name, _distribution(point))):
        yield Candidate(point.name, _distribution(point), point.load)
    for module in extra:
        yield Candidate(module, "configuration", _importer(module))


def load_beforehand(hypervisors: Collection[str], disabled: Collection[str]) -> None:
    """Import the built-in plugins with these hypervisors, for a process whose forks load them; errors are theirs."""
    for candidate in candidates(hypervisors=hypervisors):
        if candidate.origin == _WITH_US and candidate.name not in disabled:
            with suppress(Exception):
                candidate.load()


def _importer(module: str) -> Callable[[], Any]:
    return lambda: import_module(module)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
