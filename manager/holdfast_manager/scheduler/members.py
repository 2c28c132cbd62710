"""Which member of a group of repositories gets a VM's next point: a pure decision.

Invariants, each tested with random input:

1. A member that cannot take points (sealed, in maintenance, away, locked) is never chosen; nor is one whose free space,
   less what was promised to others, is not above the group's floor.
2. By locality a VM stays with the member that has its newest good point, unless that member cannot.
3. Else the member is chosen that would have most room left. One that has points of the VM needs only what changed, so
   that by capacity, too, a VM moves only when that gains more than its data takes. No choice depends on the order.
4. It is refused only when no member can, and then each is named with what stands against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from holdfast_agent.model.units import format_size

from ..catalog.values import PlacingPolicy


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A repository at this moment. ``obstacle``: why it takes no points whatever its space ("": it does)."""

    name: str
    free_bytes: int = 0
    obstacle: str = ""


class VmData(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a VM. ``newest``: by member, when the newest good point there was made.

    ``whole_bytes``: what a first point takes; ``grows_bytes``: what one more takes where there are some.
    """

    whole_bytes: int
    grows_bytes: int
    newest: Mapping[str, float] = {}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """``member``: who gets the point, None if nobody can. ``reason``: why, for people. ``takes_bytes``: what is
    promised to the VM there until its point is made."""

    member: str | None
    reason: str
    takes_bytes: int = 0


def choose(
    policy: PlacingPolicy, floor_bytes: int, members: Sequence[Member], promised: Mapping[str, int], vm: VmData
) -> Choice:
    """Decide for one VM. ``promised``: by member what points that are being made there will take. Pure."""
    room = {each.name: each.free_bytes - promised.get(each.name, 0) for each in members}
    against = {each.name: each.obstacle or _too_full(room[each.name], floor_bytes) for each in members}
    able = [name for name in sorted(against) if not against[name]]
    if not able:
        told = "; ".join(f"{name} {against[name]}" for name in sorted(against))
        return Choice(member=None, reason=told or "it has no members")
    home = max((name for name in vm.newest if name in against), key=lambda name: (vm.newest[name], name), default=None)
    if policy is PlacingPolicy.LOCALITY and home in able:
        return Choice(member=home, reason="the VM's points are there", takes_bytes=vm.grows_bytes)

    def takes(name: str) -> int:
        return vm.grows_bytes if name in vm.newest else vm.whole_bytes

    best = max(able, key=lambda name: (room[name] - takes(name), name in vm.newest))
    reason = f"most room: {format_size(max(0, room[best]))} free"
    if home is not None and home != best:
        moved = f"{home}, which has the VM's points, {against[home]}" if against[home] else f"{home} has less"
        reason = f"{reason}; {moved}"
    return Choice(member=best, reason=reason, takes_bytes=takes(best))


def _too_full(room: int, floor: int) -> str:
    return "" if room > floor else f"is full ({format_size(max(0, room))} free, its floor is {format_size(floor)})"
