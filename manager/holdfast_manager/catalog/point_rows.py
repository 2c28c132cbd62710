"""A restore point of a repository as the catalogue's row of it."""

from __future__ import annotations

from holdfast_agent.model.points import Point

from .values import PointEntryRow


def row_of_point(
    repository: str, point: Point, *, session: int | None = None, stored_bytes: int = 0, retained_until: float = 0.0
) -> PointEntryRow:
    """The row of an authentic ``point`` in ``repository``; what only its session knew is given besides."""
    return PointEntryRow(
        sid=point.sid,
        repository=repository,
        server=point.server,
        job=point.job,
        vm_id=point.vm_id,
        vm_name=point.vm_name,
        created=point.created,
        size_bytes=sum(disk.size_bytes for disk in point.disks),
        session=session,
        stored_bytes=stored_bytes,
        consistency=point.consistency,
        retained_until=retained_until,
        origin=point.origin,
    )
