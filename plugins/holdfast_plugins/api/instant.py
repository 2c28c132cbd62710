"""What a hypervisor driver may offer besides: VMs that run from a restore point before they are restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from .values import Journal, VmInfo, VmRef


class ServedDisk(msgspec.Struct, frozen=True):
    """A disk of a restore point that an exporter serves, writable. The server may be away for a while and come back.

    Over NBD, on the hypervisor's own host: the export called ``export`` of the Unix socket ``socket``. For drivers of
    :class:`MountsInstantly` over NFS: ``nfs`` is the URI of its VMDK's descriptor ("nfs://192.0.2.7/holdfast/f3a1/a.vmdk"),
    in a share for this VM alone, in which the host may make files of its own; the others are empty then.
    """

    disk_id: str
    name: str
    size_bytes: int
    socket: str
    export: str
    nfs: str = ""


Told = Callable[[int, int], bool]
"""(bytes copied, bytes in all) as it is now; whether to give up. Called about once a second."""


@runtime_checkable
class RunsInstantly(Protocol):
    """What a ``HypervisorDriver`` has besides if its VMs can run from disks that are served.

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

    def stop_instant(self, vm: VmRef, journal: Journal) -> None:
        """Stop the VM at once and remove it, with nothing of what is served. That it is not there is success.

        What must follow the removal is promised to ``journal`` before it.
        Raises ``UsageError`` for a VM none of whose disks is served (any more): that is not ours to remove.
        """
        ...


@runtime_checkable
class MountsInstantly(RunsInstantly, Protocol):
    """What a driver has besides if its hosts mount a share over NFS 3 instead of taking disks over NBD."""

    def instant_clients(self, name: str, info: VmInfo) -> Sequence[str]:
        """The addresses, in numbers, from which the host connects that is going to run the VM, or runs it already.

        Called before anything is served, and again whenever that is begun anew; nobody else is served. Raises
        ``UsageError``.
        """
        ...
