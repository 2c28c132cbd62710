"""The protocol of hypervisor drivers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from holdfast_agent.errors import UsageError

from .values import Journal, RestoreTarget, Snapshot, SnapshotRequest, VmInfo, VmRef


class HypervisorCapabilities(msgspec.Struct, frozen=True):
    """What a driver can do beyond the least. ``restore``: VMs can be made and their disks written."""

    restore: bool = True


class HypervisorDriver(Protocol):
    """A connection to one server (a hypervisor, a cluster, a directory of images).

    Made by the registered factory with the server's options; used by one process: a session, a command that asks the
    server something, or the service's. Methods may be called from several threads at once, but never two for the same
    VM. All may block; none may outlive its own time-outs: what has not come back after a while (``connect`` 5 minutes,
    inventory 10, ``create_snapshot`` an hour, what removes or restores a day) is given up, and nothing more is asked
    about that VM. Errors are ``holdfast_agent.errors.PlatformError`` subclasses, of which those whose ``retryable`` is
    true are tried again; anything else is reported as a defect of the plugin.
    """

    def connect(self) -> None:
        """Called once before anything else. Raises ``HypervisorUnreachable`` (retryable)."""
        ...

    def close(self) -> None:
        """Called once, last, also after a failed ``connect``. Must not raise."""
        ...

    def list_vms(self) -> Sequence[VmRef]:
        """All VMs, in no particular order, each id once. Cheap: names and ids only.

        Called at the start of a backup, and whenever somebody looks at the server. Raises ``HypervisorUnreachable``.
        """
        ...

    def vm_info(self, vm: VmRef) -> VmInfo:
        """The facts of one VM now, each disk's id once.

        Called for each VM of a job at its start, and again for each try, directly before the snapshot. Raises
        ``VmNotFound``, or ``DiskUnsupported`` for what can never be backed up.
        """
        ...

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        """Freeze all disks of ``request`` at one instant.

        The guest is frozen (by a guest processor) while this runs: be quick. What is returned has just the disks asked
        for. Whatever is made is promised to
        ``journal`` first and struck off when it is removed. On an error nothing may be left behind that is not
        promised. Raises ``SnapshotFailed`` (retryable), ``DiskUnsupported`` or ``VmNotFound``.
        """
        ...

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """Whether what was read of the snapshot can be relied on, for hypervisors that give one up rather than harm a
        guest (a full scratch file, a slow disk) and do not tell its readers.

        Called when all disks are read, before the restore point is committed. Raises ``SnapshotFailed`` (retryable):
        the point is not made then. A hypervisor whose snapshots cannot break has nothing to do here.
        """
        ...

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        """Remove the snapshot and consolidate. ``committed``: the restore point exists (rotate change tracking).

        Called when the point is committed or given up, by the process that made the snapshot. Idempotent. Raises
        ``SnapshotNotRemoved``; the obligation then stays open.
        """
        ...

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        """Carry out an obligation that a crashed session left open. Idempotent; what is gone already is success.

        Called on a connected driver in another process, for the latest promise first; the act may have been done in
        part or not at all. ``data`` may be old or damaged: delete only what is plainly this plugin's own. Raises a
        ``PlatformError`` when it cannot be done now, also when it cannot be told whether the thing is gone (storage
        that is not mounted); it is tried again later.
        """
        ...

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        """Make room for a restored VM called ``name`` and say where each disk is to be written.

        Called once for a restore, before anything is read; what is made is promised to ``journal`` first.
        ``info`` is what ``vm_info`` told at the backup, perhaps by another kind of hypervisor. A VM that is to be
        replaced stays as it is until ``finish_restore``, and the new one is not listed before. Raises
        ``AlreadyExists`` when there is a VM of that name and ``overwrite`` is not given.
        """
        ...

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        """All disks are written: make the VM known under its name. Returns it.

        Raises ``AlreadyExists`` when a VM of that name came into being meanwhile; ``abandon_restore`` is called then,
        as after any error.
        """
        ...

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        """The restore failed: remove what ``prepare_restore`` and the writers made. Idempotent.

        Called when no writer is at work any more. Raises a ``PlatformError``; the obligation then stays open.
        """
        ...


class BackupOnly:
    """Base for drivers that are registered with ``HypervisorCapabilities(restore=False)``: refuses every restore.

    Its snapshots are taken to be unbreakable; a driver whose are not overrides ``check_snapshot``.
    """

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """Nothing breaks it."""

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        """Raises ``UsageError``, which says what can be done instead."""
        raise UsageError(reason="this hypervisor takes no restores; restore the disks to files, or to another server")

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        """Never called: nothing was prepared."""
        raise UsageError(reason="this hypervisor takes no restores")

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        """Nothing was ever prepared."""
