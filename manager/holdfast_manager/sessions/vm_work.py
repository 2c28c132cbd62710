"""What a backup session knows of one VM in its present attempt."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from holdfast_agent.errors import SnapshotFailed
from holdfast_agent.model.change import ChangeDecision
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.points import Point
from holdfast_plugins.api import ConsistencyLevel, Snapshot, SnapshotDisk, VmInfo


@dataclass
class VmWork:
    """Owned by the session's actions; instructions about one VM never run at once, those of its tasks may.

    ``begun``: the repository may hold a write session ``sid``. ``decisions``: change mode and reason by disk id.
    """

    info: VmInfo
    sid: Sid = field(default_factory=new_sid)
    begun: bool = False
    base: Point | None = None
    snapshot: Snapshot | None = None
    consistency: ConsistencyLevel = ConsistencyLevel.CRASH
    decisions: dict[str, ChangeDecision] = field(default_factory=dict)
    _movers: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_attempt(self) -> Sid:
        """A new write session with nothing of the last one."""
        self.sid, self.begun, self.base, self.snapshot = new_sid(), True, None, None
        self.decisions.clear()
        return self.sid

    def next_mover(self) -> int:
        """A number for one more writer of the write session; never given twice. Thread-safe."""
        with self._lock:
            number, self._movers = self._movers, self._movers + 1
            return number

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
