"""Which VMs are protected, and how well. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from holdfast_manager.catalog.overview import VmPoints

if TYPE_CHECKING:
    from holdfast_plugins.api import VmRef


class VmState(StrEnum):
    """``LATE``: the newest good point is older than the objective. ``UNPROTECTED``: there is none.

    ``GONE``: it has points, and its server no longer has it.
    """

    UNPROTECTED = "unprotected"
    LATE = "late"
    PROTECTED = "protected"
    GONE = "gone"


class VmLine(msgspec.Struct, frozen=True, kw_only=True):
    """One VM. ``last_good``: Unix seconds."""

    server: str
    vm: str
    vm_id: str
    state: VmState
    points: int = 0
    suspect: int = 0
    last_good: float | None = None


def vm_lines(
    known: Sequence[VmPoints], inventory: Mapping[str, Sequence[VmRef]], now: float, rpo_s: float
) -> list[VmLine]:
    """What needs somebody's eyes first. ``inventory``: the VMs of each server that could be asked; others are believed.

    ``rpo_s``: the recovery point objective, how old the newest good point of a VM may be.
    """
    there = {(server, vm.vm_id) for server, vms in inventory.items() for vm in vms}
    lines = [_known_line(each, there, inventory, now, rpo_s) for each in known]
    with_points = {(each.server, each.vm_id) for each in known}
    lines += [
        VmLine(server=server, vm=vm.name, vm_id=vm.vm_id, state=VmState.UNPROTECTED)
        for server, vms in inventory.items()
        for vm in vms
        if (server, vm.vm_id) not in with_points
    ]
    urgency = list(VmState)
    return sorted(lines, key=lambda line: (urgency.index(line.state), line.server, line.vm, line.vm_id))


def _known_line(
    each: VmPoints, there: set[tuple[str, str]], inventory: Mapping[str, Sequence[VmRef]], now: float, rpo_s: float
) -> VmLine:
    if each.server in inventory and (each.server, each.vm_id) not in there:
        state = VmState.GONE
    elif each.last_good is None:
        state = VmState.UNPROTECTED
    else:
        state = VmState.PROTECTED if now - each.last_good <= rpo_s else VmState.LATE
    return VmLine(
        server=each.server,
        vm=each.vm_name,
        vm_id=each.vm_id,
        state=state,
        points=each.count,
        suspect=each.suspect,
        last_good=each.last_good,
    )
