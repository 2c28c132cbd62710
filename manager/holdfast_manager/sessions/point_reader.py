"""Restore points and VM configurations as a repository has them, authenticated and opened."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

import msgspec

from holdfast_agent.errors import NotFound, ObjectDamaged, UsageError
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.records import open_record
from holdfast_agent.sealing.roots import open_point, root_id
from holdfast_agent.wire.messages import BlobRecord, PointList, ReadBlob, ReadPoint, Reply, Request
from holdfast_manager.catalog.values import RepositoryEntry
from holdfast_plugins.api import VmInfo

from .tasks import Context

R = TypeVar("R", bound=Reply)


class PointReader:
    """Reads from one repository, not always the session's own. Thread-safe."""

    def __init__(self, context: Context, repository: RepositoryEntry, keys: RepositoryKeys) -> None:
        self.repository = repository
        self.keys = keys
        self._context = context

    def ask(self, request: Request, kind: type[R], /) -> R:
        """Ask the agent of the repository; as ``enrolment.points.Ask``."""
        return self._context.pool.ask(self.repository.agent, request, kind)

    def point(self, sid: Sid) -> Point:
        """A point, its MAC checked. Raises ``PointNotFound`` or ``PointNotAuthentic``."""
        request = ReadPoint(repository=self.repository.path, sid=sid)
        return open_point(self.ask(request, PointList).points[0], self.keys)

    def blob(self, blob: str) -> bytes:
        """A VM's configuration by its id in hex. Raises ``ObjectMissing``, ``ObjectDamaged``, ``WrongKey``."""
        request = ReadBlob(repository=self.repository.path, blob=blob)
        record = self.ask(request, BlobRecord).record
        return open_record(record, self.keys.blob_keys(), root_id(blob))

    def config(self, point: Point) -> bytes:
        """The configuration of a point's VM, as JSON. Raises :class:`UsageError` where it holds none."""
        if point.config is None:
            raise UsageError(reason="this restore point holds no VM configuration; restore its disks to files instead")
        return self.blob(point.config)

    def vm_info(self, point: Point, disks: Collection[DiskPoint]) -> VmInfo:
        """A point's VM at the time of the backup, with ``disks`` alone. Raises ``ObjectDamaged``, as :meth:`config`."""
        plain = self.config(point)
        try:
            info = msgspec.json.decode(plain, type=VmInfo)
        except NOT_DECODED as error:
            name = f"the VM configuration of {point.sid}"
            raise ObjectDamaged(name=name, offset_bytes=0, reason=str(error)) from error
        kept = {disk.disk_id for disk in disks}
        return msgspec.structs.replace(info, disks=tuple(disk for disk in info.disks if disk.disk_id in kept))


def wanted_disks(point: Point, wanted: tuple[str, ...]) -> list[DiskPoint]:
    """The disks of ``point`` that ``wanted`` has the names or ids of; all for none. Raises :class:`NotFound`."""
    known = {disk.disk_id for disk in point.disks} | {disk.name for disk in point.disks}
    for name in wanted:
        if name not in known:
            raise NotFound(kind="disk", name=name, advice=f"The point holds {', '.join(sorted(known))}")
    return [disk for disk in point.disks if not wanted or disk.disk_id in wanted or disk.name in wanted]
