"""What a hypervisor driver may offer besides: VMs that run from a restore point before they are restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from .values import Journal, VmInfo, VmRef


class ServedDisk(msgspec.Struct, frozen=True):
    """A disk of a restore point that an exporter serves over NBD, writable, on the hypervisor's own host: the export
    called ``export`` of the Unix socket ``socket``. The server may be away for a while and come back there."""

    disk_id: str
    name: str
    size_bytes: int
    socket: str
    export: str


Told = Callable[[int, int], bool]
"""(bytes copied, bytes in all) as it is now; whether to give up. Called about once a second."""


@runtime_checkable
class RunsInstantly(Protocol):
    """What a ``HypervisorDriver`` has besides if its VMs can run from disks that are served over NBD.

    A guest is never told of errors while their server is away: it waits, or it is paused.
    """

    def start_instant(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        """Make a VM called ``name`` of these disks, and start it. ``info``: as for ``prepare_restore``.

        Its removal is promised to ``journal`` until it runs; from then on it is a VM like any other. On an error
        nothing is left. Raises ``AlreadyExists``, ``UsageError``.
        """
        ...

    def resume_instant(self, vm: VmRef) -> None:
        """Let a guest go on that was paused because its disks could not be reached.

        Called every few seconds while they are served. A guest that runs, that somebody else has paused, or that is not
        there is left alone. Raises ``HypervisorUnreachable``.
        """
        ...

    def migrate_instant(self, vm: VmRef, journal: Journal, told: Told) -> None:
        """Bring the disks of a running VM that are still served to the hypervisor's own storage, while it runs.

        When this returns the VM needs no server any more, now and at its next start. Of a migration that fails, is
        given up or dies in its midst the VM goes on as it was, and its copies are removed: at once, or as ``journal``
        was promised. Disks that it brought over before stay where they are. Raises ``VmNotFound``, ``UsageError`` (the
        VM does not run), ``Cancelled``.
        """
        ...

    def stop_instant(self, vm: VmRef) -> None:
        """Stop the VM at once and remove it, with nothing of what is served. That it is not there is success.

        Raises ``UsageError`` for a VM none of whose disks is served (any more): that is not ours to remove.
        """
        ...
