"""What a backup session knows of one VM in its present attempt."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_agent.errors import SnapshotFailed
from holdfast_agent.model.change import ChangeDecision
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Point
from holdfast_plugins.api import ConsistencyLevel, Snapshot, SnapshotDisk, VmInfo

from .homes import Home
from .write_sessions import WriteAttempt


@dataclass
class VmWork(WriteAttempt):
    """Owned by the session's actions; instructions about one VM never run at once, those of its tasks may.

    ``home``: where the point goes, once that is decided. ``decisions``: change mode and reason by disk id. ``doubt``:
    why change tracking is not believed in this attempt; empty where it is. ``ways``: by disk id the URLs that its proxy
    was to try, in order. ``snapshot_since``: when it was taken, monotonic.
    """

    info: VmInfo
    home: Home | None = None
    base: Point | None = None
    doubt: str = ""
    snapshot: Snapshot | None = None
    snapshot_since: float = 0.0
    consistency: ConsistencyLevel = ConsistencyLevel.CRASH
    decisions: dict[str, ChangeDecision] = field(default_factory=dict)
    ways: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _distrusted: set[str] = field(default_factory=set)

    def begin_attempt(self) -> Sid:
        """A new write session with nothing of the last one."""
        self.base, self.doubt, self.snapshot = None, "", None
        self.decisions.clear()
        self.ways.clear()
        return self.renew()

    def distrust(self, disk_id: str) -> None:
        """An audit has found the disk's tracking out, in whichever attempt of this session."""
        self._distrusted.add(disk_id)

    def distrusts(self, disk_id: str) -> bool:
        """Whether an audit of this session has found the disk's tracking out."""
        return disk_id in self._distrusted

    def incomplete(self) -> str:
        """What somebody may look for in the point and will not find there; empty if there is nothing.

        A disk that the base has and the VM has not: whoever took it away knows, and whoever did not must hear of it.
        """
        present = {disk.disk_id for disk in self.info.disks}
        before = self.base.disks if self.base is not None else ()
        lost = [disk.name for disk in before if disk.disk_id not in present]
        told = [f"not in this restore point, for it is not backed up: {'; '.join(self.info.left_out)}"]
        told = told if self.info.left_out else []
        if lost and self.base is not None:
            told.append(f"the VM no longer has {', '.join(lost)}, which the point {self.base.sid[:8]} holds")
        return "; ".join(told)

    def snapshot_disks(self) -> tuple[SnapshotDisk, ...]:
        """Raises :class:`SnapshotFailed` when there is no snapshot."""
        if self.snapshot is None:
            raise SnapshotFailed(vm=self.info.ref.name, reason="it is gone")
        return self.snapshot.disks

    def snapshot_disk(self, disk_id: str) -> SnapshotDisk:
        """Raises :class:`SnapshotFailed` when the snapshot does not hold the disk."""
        for disk in self.snapshot_disks():
            if disk.disk_id == disk_id:
                return disk
        raise SnapshotFailed(vm=self.info.ref.name, reason=f"it holds no disk {disk_id}")
