"""Restore points that were committed by a session that died before it could remember them."""

from __future__ import annotations

from holdfast_agent.errors import HoldfastError, NotFound, PointNotFound
from holdfast_agent.model.ids import Sid
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import PointList, ReadPoint
from holdfast_manager.catalog.errors import SessionDied
from holdfast_manager.catalog.point_rows import row_of_point

from .events import RepositorySessionBegun
from .tasks import Context

_SESSIONS_LOOKED_AT = 20


def adopt_orphaned_points(context: Context, job: str, keys: RepositoryKeys) -> int:
    """Bring points into the catalogue that dead sessions of ``job`` had committed; how many.

    Called at a session's start, before base points are chosen: the commit is the repository's, so between it and
    the catalogue's row there is a moment in which a session can die.
    """
    adopted = 0
    for session in context.catalog.sessions.list(job=job, limit=_SESSIONS_LOOKED_AT):
        if session.error is None or session.error.code != SessionDied.code:
            continue
        for event in context.catalog.events.after(session.id, limit=1 << 20):
            if event.kind == RepositorySessionBegun.__name__:
                adopted += _adopt(context, Sid(str(event.data["sid"])), session.id, keys)
    return adopted


def _adopt(context: Context, sid: Sid, session: int, keys: RepositoryKeys) -> bool:
    try:
        context.catalog.points.get(sid)
    except NotFound:
        pass
    else:
        return False
    request = ReadPoint(repository=context.repository.path, sid=sid)
    try:
        listed = context.pool.ask(context.repository.agent, request, PointList)
        point = open_point(listed.points[0], keys)
    except PointNotFound:
        return False  # it died before the commit
    except HoldfastError as error:
        context.recorder.note(f"a restore point of session {session} cannot be read: {error}", "warning")
        return False
    context.catalog.points.add(row_of_point(context.repository.name, point, session=session))
    context.recorder.note(f"{point.vm_name}: restore point {sid[:8]} of session {session}, which died, was remembered")
    return True
