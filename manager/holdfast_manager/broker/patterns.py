"""How the entries of a job's VM lists choose VMs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from holdfast_agent.errors import VmNotFound
from holdfast_plugins.api import VmRef


def match(entry: str, vms: Sequence[VmRef], required_on: str = "") -> list[VmRef]:
    """The VMs that ``entry`` means, in the order of ``vms``: an exact name or id first, else a pattern.

    An exact match comes first so that a VM called ``web[1]`` can be named. With ``required_on`` (the server's name) an
    entry that is no pattern must match, else ``VmNotFound`` is raised.
    """
    exact = [vm for vm in vms if entry in (vm.name, vm.vm_id)]
    if exact:
        return exact
    if is_pattern(entry):
        return [vm for vm in vms if fnmatchcase(vm.name, entry)]
    if required_on:
        close = difflib.get_close_matches(entry, {vm.name for vm in vms}, n=3, cutoff=0.5)
        nearest = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
        raise VmNotFound(vm=entry, server=required_on, nearest=nearest)
    return []


def is_pattern(entry: str) -> bool:
    """Whether ``entry`` may choose more than one name."""
    return any(character in entry for character in "*?[")
