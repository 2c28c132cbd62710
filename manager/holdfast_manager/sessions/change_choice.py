"""Which change mode a disk gets, and why. Pure: the words are shown to people as they are made here."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from holdfast_agent.errors import ChangeTrackingLost
from holdfast_agent.model.change import AuditRate, ChangeDecision, ChangeMode
from holdfast_agent.model.disk_url import with_bitmap
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.units import format_size
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.specs import BackupOrder, MoverResult
from holdfast_manager.catalog.values import OnCbtLoss
from holdfast_plugins.api import SnapshotDisk

from .tracking import Told

_FALLS_TO = {OnCbtLoss.DIGEST: ChangeMode.DIGEST, OnCbtLoss.FULL: ChangeMode.FULL, OnCbtLoss.FAIL: None}


class Ground(msgspec.Struct, frozen=True):
    """What is known when the mode of one disk is chosen.

    ``told``: what trackers say, of changes where ``base`` can be built on, else of allocation. ``doubt``: why change
    tracking is not believed this time. ``audit``: how much of what it says is going to be audited.
    ``skip_unused``: as the job says.
    """

    disk: SnapshotDisk
    block_log2: int
    base: Point | None
    told: Told = Told()
    doubt: str = ""
    policy: OnCbtLoss = OnCbtLoss.DIGEST
    audit: AuditRate = AuditRate()
    skip_unused: bool = False


def base_disk(base: Point | None, disk_id: str) -> DiskPoint | None:
    """The same disk in the base point."""
    return None if base is None else next((disk for disk in base.disks if disk.disk_id == disk_id), None)


def change_ids(base: Point | None) -> dict[str, str]:
    """The change ids of a base by disk id; a disk without one is left out."""
    disks = () if base is None else base.disks
    return {disk.disk_id: disk.change_id for disk in disks if disk.change_id}


def comparable(base: Point | None, disk: SnapshotDisk, block_log2: int) -> DiskPoint | None:
    """The base disk if its block ids can be compared with those of ``disk``: cut into blocks of the same size."""
    before = base_disk(base, disk.disk_id)
    return before if before is not None and before.block_log2 == block_log2 else None


def trackable(base: Point | None, disk: SnapshotDisk, block_log2: int) -> str | None:
    """The change id to ask a change tracker about, or None where its answer could not be used."""
    before = comparable(base, disk, block_log2)
    return before.change_id if before is not None and before.size_bytes == disk.size_bytes else None


def choose_mode(ground: Ground) -> ChangeDecision:
    """`cbt` → `allocation` (a first full) → `digest` → `full`, as the ground allows.

    Raises :class:`ChangeTrackingLost` only where the job's policy is to fail.
    """
    before = base_disk(ground.base, ground.disk.disk_id)
    if ground.base is None or before is None:
        return _everything(ground, "first backup of this disk")
    if before.block_log2 != ground.block_log2:
        return _everything(ground, f"the block size changed from {_block(before.block_log2)}")
    compared = f"compared with the point of {_when(ground.base)}"
    if ground.doubt:
        return ChangeDecision(ChangeMode.DIGEST, f"{compared}: {ground.doubt}")
    if ground.told.tracker:
        tracked = f"changes tracked since the point of {_when(ground.base)}{_unaudited(ground)}"
        return ChangeDecision(ChangeMode.CBT, tracked, ground.told.tracker)
    if ground.told.lost:
        return _without_tracking(ground)
    resized = f"; it had {before.size_bytes} bytes then" if before.size_bytes != ground.disk.size_bytes else ""
    return ChangeDecision(ChangeMode.DIGEST, f"{compared}{resized}")


def backup_order(ground: Ground, decision: ChangeDecision) -> BackupOrder:
    """What the source mover is told to do for ``decision``."""
    based = decision.mode in (ChangeMode.CBT, ChangeMode.DIGEST)
    before = comparable(ground.base, ground.disk, ground.block_log2) if based else None
    told = ground.told if decision.tracker else Told()
    urls = ground.disk.urls
    return BackupOrder(
        geometry=geometry_of(ground.disk, ground.block_log2),
        access=ground.disk.access,
        disks=tuple(with_bitmap(url, told.bitmap) for url in urls) if told.bitmap else urls,
        mode=decision.mode,
        base_root=root_id(before.root) if before else None,
        base_geometry=before.geometry if before else None,
        extents=told.extents,
        on_loss=_FALLS_TO[ground.policy],
        audit=ground.audit if decision.tracker else None,
        skip_unused=ground.skip_unused,
    )


def carried_out(decision: ChangeDecision, result: MoverResult) -> ChangeDecision:
    """What became of ``decision``: the mover may have had to turn to another mode, which takes nobody's word."""
    done = decision if result.mode is None else ChangeDecision(result.mode, result.reason)
    return msgspec.structs.replace(done, reason=f"{done.reason}; {result.unused}") if result.unused else done


def left_out(base: Point | None, disk_id: str) -> str:
    """Why a tracker cannot be asked what changed since ``base``; empty if it can.

    Where the base has zeros, the disk may have old data. No tracker tells when a file system takes such blocks into
    use again without writing them (a deleted file brought back, say): only reading does.
    """
    before = base_disk(base, disk_id)
    if before is None or before.unused_bytes is msgspec.UNSET:
        return ""
    return f"{format_size(before.unused_bytes)} that no file system needed was left out of it"


def geometry_of(disk: SnapshotDisk, block_log2: int) -> Geometry:
    return Geometry(disk.size_bytes, block_log2)


def _without_tracking(ground: Ground) -> ChangeDecision:
    if ground.policy is OnCbtLoss.FAIL:
        raise ChangeTrackingLost(reason=f"change tracking of {ground.disk.name} is lost ({ground.told.lost})")
    mode = ChangeMode.DIGEST if ground.policy is OnCbtLoss.DIGEST else ChangeMode.FULL
    return ChangeDecision(mode, f"change tracking is lost ({ground.told.lost})")


def _everything(ground: Ground, reason: str) -> ChangeDecision:
    if ground.disk.allocation:
        return ChangeDecision(ChangeMode.ALLOCATION, reason)
    if ground.told.tracker:
        told = f"{reason}; what is in use was told by change tracking{_unaudited(ground)}"
        return ChangeDecision(ChangeMode.ALLOCATION, told, ground.told.tracker)
    return ChangeDecision(ChangeMode.FULL, f"{reason}; its unused areas cannot be told")


def _unaudited(ground: Ground) -> str:
    return "; the audit is switched off" if ground.audit.off else ""


def _when(point: Point) -> str:
    return datetime.fromtimestamp(point.created, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _block(log2: int) -> str:
    return f"{(1 << log2) // 1024} KiB"
