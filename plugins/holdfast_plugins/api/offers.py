"""What a hypervisor driver may offer besides: each a protocol of its own, which those drivers have that can."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

from .values import Journal, RestoreTarget, VmInfo


class PlaceKind(StrEnum):
    """By what an inventory groups its VMs. A job's entry "folder:/dc/vm/web" means the VMs there."""

    FOLDER = "folder"
    CLUSTER = "cluster"
    HOST = "host"
    POOL = "pool"
    DATASTORE = "datastore"
    TAG = "tag"


@runtime_checkable
class OffersPlaces(Protocol):
    """What a ``HypervisorDriver`` has besides if jobs can choose VMs by where they are."""

    def places(self, kind: PlaceKind) -> Mapping[str, Collection[str]]:
        """By VM id the names of all places of ``kind`` that a VM is in, as they are now.

        What lies in each other (folders, pools) is told with all that is above: a VM in "/dc/vm/web" is in "/dc/vm" and
        "/dc" too. Called at a session's start for each kind that its job names, after ``list_vms``; VMs that are in
        none may be left out. Raises ``HypervisorUnreachable``.
        """
        ...


@runtime_checkable
class ChecksRights(Protocol):
    """What a ``HypervisorDriver`` has besides if its server lets some users do more than others."""

    def missing_rights(self) -> Sequence[str]:
        """What the user may not do that backups need, one sentence each: the right and where it is missing.

        Empty: nothing is missing. Called once, when a server is added, on a connected driver; at most 10 minutes.
        Raises ``HypervisorUnreachable``.
        """
        ...


@runtime_checkable
class RollsBack(Protocol):
    """What a ``HypervisorDriver`` has besides if it can let a point be written over the disks of a VM, in place."""

    def prepare_rollback(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        """Say where the disks of the VM called ``name`` lie that ``info``, told by ``vm_info`` at the backup, has.

        Called in the place of ``prepare_restore``; ``finish_restore`` or ``abandon_restore`` follow in the same way.
        The VM is off, and its definition stays as it is; what would go on from the disks as they were, such as memory
        that was saved with them, is thrown away. Each disk has its size of now. ``since``: the change ids of the point,
        by disk id: a URL may name the dirty bitmap that began with it, which is asked for what differs and is audited.
        Raises ``VmNotFound``, ``DiskInUse`` (the VM runs) or ``DiskUnsupported``.
        """
        ...


@runtime_checkable
class OffersLoad(Protocol):
    """What a ``HypervisorDriver`` has besides if it can tell how busy its datastores are."""

    def latencies_ms(self, datastores: Collection[str]) -> Mapping[str, float]:
        """By name (as ``DiskInfo.datastore`` has it) how many milliseconds a read or a write takes now.

        Of the last minute or so; what is not known is left out. Called every 20 s while tasks of a server with limits
        of latency wait or read, by a thread of its own beside calls about VMs. Raises ``HypervisorUnreachable``.
        """
        ...
