"""Change ids as restore points keep them: what ESXi calls a moment of a disk, and what else must hold for it to count.

ESXi's own id is a UUID and a number, "52 de … 63/81": the UUID stands for one uninterrupted record of changes, the
number for an instant in it (VMware, Virtual Disk Programming Guide: Changed Block Tracking).
"""

from __future__ import annotations

import re

import msgspec

from holdfast_agent.errors import ChangeTrackingLost

from .devices import Disk

_FORM = re.compile(r"(?P<record>[0-9A-Za-z -]{8,80})/(?P<number>[0-9]{1,18})", re.ASCII)
_KEPT = re.compile(r"vsphere:(?P<disk>[0-9A-Za-z-]{0,64}):(?P<change>[^:]{1,120})", re.ASCII)
ALLOCATED = "*"
"""In the place of a change id it asks for all that was ever written."""


class TrackedId(msgspec.Struct, frozen=True):
    """``disk``: the UUID of the virtual disk. ``change``: ESXi's id."""

    disk: str
    change: str

    def __str__(self) -> str:
        return f"vsphere:{self.disk}:{self.change}"


def tracked_id(disk: Disk) -> str | None:
    """What a restore point keeps of a disk as a snapshot has it; None where nothing is tracked."""
    return str(TrackedId(disk.uuid, disk.change_id)) if _FORM.fullmatch(disk.change_id) else None


def change_before(disk: Disk, since: str) -> str | None:
    """ESXi's id to ask with what changed since a point that kept ``since``; None where it is not of this disk.

    ``disk``: as a VM that is off has it. Whether its record still goes back so far is the server's to say.
    """
    kept = _KEPT.fullmatch(since)
    if kept is None or not disk.uuid or kept["disk"] != disk.uuid or _FORM.fullmatch(kept["change"]) is None:
        return None
    return kept["change"]


def change_since(disk: Disk, since: str) -> str:
    """ESXi's id to ask with what changed since a point that kept ``since``. ``disk``: as the new snapshot has it.

    Raises ``ChangeTrackingLost`` for every reason for which the answer could be wrong.
    """
    kept, now = _KEPT.fullmatch(since), _FORM.fullmatch(disk.change_id)
    then = _FORM.fullmatch(kept["change"]) if kept else None
    if kept is None or then is None:
        raise ChangeTrackingLost(reason=f"{since[:60]!r} is no change id of vSphere")
    if now is None:
        raise ChangeTrackingLost(reason="changed-block tracking is off")
    if kept["disk"] != disk.uuid:
        raise ChangeTrackingLost(reason="another disk is in its place")
    if then["record"] != now["record"]:
        reason = "tracking began anew: its host lost power, the VM was reverted, or the disk was moved or resized"
        raise ChangeTrackingLost(reason=reason)
    if int(then["number"]) >= int(now["number"]):
        raise ChangeTrackingLost(reason="the VM was reverted to a time before its last backup")
    return kept["change"]
