"""Restore points and VM configurations as a repository has them, authenticated and opened."""

from __future__ import annotations

from typing import TypeVar

from holdfast_agent.errors import UsageError
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.records import open_record
from holdfast_agent.sealing.roots import open_point, root_id
from holdfast_agent.wire.messages import BlobRecord, PointList, ReadBlob, ReadPoint, Reply, Request
from holdfast_manager.catalog.values import RepositoryEntry

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
