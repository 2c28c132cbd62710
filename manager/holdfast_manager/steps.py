"""The ten steps of a backup session, in order, with the names that the session log shows."""

from __future__ import annotations

from enum import StrEnum


class Step(StrEnum):
    """One step. A restore and a verification pass through those that apply to them, in the same order."""

    START = "start"
    """Read the job, list its VMs, make one task per virtual disk."""
    SCHEDULE = "schedule"
    """Find a slot on a proxy and on the repository for each task; wait in the fair queue while there is none."""
    MOVERS = "movers"
    """Start a source mover on the proxy and a target mover on the repository."""
    RULES = "rules"
    """Hand both movers their transfer rules: streams, bandwidth, compression, encryption."""
    CONNECT = "connect"
    """The movers authenticate each other and open the data channel."""
    INVENTORY = "inventory"
    """Read the VM's facts from the hypervisor: its disks and its configuration."""
    GUEST = "guest"
    """Quiesce the guest: scripts, file systems, databases."""
    SNAPSHOT = "snapshot"
    """Freeze all disks at one instant; the guest is thawed at once."""
    TRANSFER = "transfer"
    """Move the blocks that changed."""
    COMMIT = "commit"
    """Commit the restore point, then remove the snapshot."""
