"""What a plugin author imports: values, protocols and the registry.

A plugin is a module (or object) with functions named after the hooks in :mod:`holdfast_plugins.api.hooks`. They are
called once, at load, and register factories; from then on only the objects that the factories make are used.
"""

from .changes import ChangeTracker
from .guest import (
    AgentChannel,
    Finished,
    FreezeHandle,
    GuestAccess,
    GuestProcessor,
    InGuest,
    OffersGuestAgent,
    OffersPrograms,
)
from .hypervisor import BackupOnly, HypervisorCapabilities, HypervisorDriver
from .instant import MountsInstantly, RunsInstantly, ServedDisk, Told
from .notices import Notice, Notifier, Severity
from .offers import ChecksRights, OffersLoad, OffersPlaces, PlaceKind, RollsBack
from .registry import API_VERSION, Family, Registration, Registry
from .transports import OffersTransports, WritesByTransports
from .values import (
    ConsistencyLevel,
    DiskBitmap,
    DiskInfo,
    Journal,
    RestoreDisk,
    RestoreTarget,
    Snapshot,
    SnapshotDisk,
    SnapshotRequest,
    VmInfo,
    VmRef,
)

__all__ = [
    "API_VERSION",
    "AgentChannel",
    "BackupOnly",
    "ChangeTracker",
    "ChecksRights",
    "ConsistencyLevel",
    "DiskBitmap",
    "DiskInfo",
    "Family",
    "Finished",
    "FreezeHandle",
    "GuestAccess",
    "GuestProcessor",
    "HypervisorCapabilities",
    "HypervisorDriver",
    "InGuest",
    "Journal",
    "MountsInstantly",
    "Notice",
    "Notifier",
    "OffersGuestAgent",
    "OffersLoad",
    "OffersPlaces",
    "OffersPrograms",
    "OffersTransports",
    "PlaceKind",
    "Registration",
    "Registry",
    "RestoreDisk",
    "RestoreTarget",
    "RollsBack",
    "RunsInstantly",
    "ServedDisk",
    "Severity",
    "Snapshot",
    "SnapshotDisk",
    "SnapshotRequest",
    "Told",
    "VmInfo",
    "VmRef",
    "WritesByTransports",
]
