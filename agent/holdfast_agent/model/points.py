"""Restore points as values. How they are made canonical and authenticated stands in ``sealing.roots``."""

from __future__ import annotations

import msgspec

from .change import AuditOutcome, ChangeMode
from .geometry import Geometry
from .ids import Sid


class DiskPoint(msgspec.Struct, frozen=True):
    """One disk of a restore point.

    ``disk_id`` is the hypervisor's stable id within the VM; ``root`` the hex id of the root node of the block tree;
    ``change_id`` what the change tracker needs to name later changes, or None. ``tracker``: on whose word parts of the
    disk were not read; it stands in the body only where there is one, so that other points are the bytes that they
    always were. ``audit``: a word of :class:`~.change.AuditOutcome`, of how the tracker's word fared. ``unused_bytes``:
    what held data and is zeros in the point, because no file system needed it; absent like ``tracker``.
    """

    disk_id: str
    name: str
    size_bytes: int
    block_log2: int
    root: str
    mode: ChangeMode
    reason: str
    change_id: str | None = None
    audit: str = AuditOutcome.NONE.value
    tracker: str | msgspec.UnsetType = msgspec.UNSET
    unused_bytes: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.size_bytes, self.block_log2)


class Origin(msgspec.Struct, frozen=True, order=True):
    """The restore point that a copy was made of: the first one, also of a copy of a copy."""

    repository_id: str
    sid: Sid


class Point(msgspec.Struct, frozen=True):
    """A committed restore point: one VM at one instant, all its disks, logically full.

    ``created`` is Unix time in seconds by the manager's clock. ``base`` is the point that unchanged blocks were
    compared with; it is history only, a point needs no other to be restored. ``config`` is the hex id of the
    blob record with the sealed VM configuration. ``consistency`` is "crash", "file-system" or "application".
    ``packs`` is the hex BLAKE3 of the sorted names of all packs this session wrote. ``origin``: of which point this is
    a copy; it has the same disks and the same time, under this repository's ids.
    """

    sid: Sid
    repository_id: str
    created: float
    job: str
    server: str
    vm_id: str
    vm_name: str
    disks: tuple[DiskPoint, ...]
    packs: str
    base: Sid | None = None
    config: str | None = None
    consistency: str = "crash"
    version: int = 1
    origin: Origin | None = None

    @property
    def identity(self) -> Origin:
        """What a point and all its copies, in whatever repository, have in common: the same content."""
        return self.origin or Origin(self.repository_id, self.sid)


class PointEntry(msgspec.Struct, frozen=True):
    """A point as the repository hands it out: the exact canonical bytes and their MAC.

    Whoever holds the repository's key checks the MAC before trusting a word of it (``sealing.roots.open_point``).
    """

    sid: Sid
    body: bytes
    mac: bytes
