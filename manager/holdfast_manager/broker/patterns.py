"""How the entries of a job's VM lists choose VMs."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
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
        raise _nothing(entry, {vm.name for vm in vms}, required_on)
    return []


def match_places(
    entry: str, places: Mapping[str, Collection[str]], vms: Sequence[VmRef], required_on: str = ""
) -> list[VmRef]:
    """As :func:`match`, for an entry "kind:name". ``places``: by VM id all places of that kind which it is in."""
    kind, _, name = entry.partition(":")
    every = {place for names in places.values() for place in names}
    meant = {name} if name in every else {place for place in every if is_pattern(name) and fnmatchcase(place, name)}
    found = [vm for vm in vms if not meant.isdisjoint(places.get(vm.vm_id, ()))]
    if required_on and not found and not is_pattern(name):
        raise _nothing(entry, {f"{kind}:{place}" for place in every}, required_on)
    return found


def _nothing(entry: str, names: Collection[str], server: str) -> VmNotFound:
    close = difflib.get_close_matches(entry, names, n=3, cutoff=0.5)
    nearest = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    return VmNotFound(vm=entry, server=server, nearest=nearest)


def is_pattern(entry: str) -> bool:
    """Whether ``entry`` may choose more than one name."""
    return any(character in entry for character in "*?[")
