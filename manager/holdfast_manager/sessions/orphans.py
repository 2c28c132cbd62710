"""Restore points that were committed by a session that died before it could remember them, or never heard of it."""

from __future__ import annotations

from holdfast_agent.errors import (
    AgentAway,
    ConnectionLost,
    HoldfastError,
    NotFound,
    PointNotFound,
    RepositoryAway,
    Unreachable,
)
from holdfast_agent.model.ids import Sid
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import PointList, ReadPoint
from holdfast_manager.catalog.errors import SessionDied
from holdfast_manager.catalog.point_rows import row_of_point
from holdfast_manager.steps import Step

from .events import RepositorySessionBegun, VmFailed
from .tasks import Context

_SESSIONS_LOOKED_AT = 20
_UNANSWERED = frozenset(error.code for error in (AgentAway, ConnectionLost, RepositoryAway, Unreachable))
"""Of a session that lost its repository's agent: a commit may have been carried out, and its answer lost."""


def adopt_orphaned_points(context: Context, job: str, keys: RepositoryKeys) -> int:
    """Bring points into the catalogue that sessions of ``job`` had committed without knowing; how many.

    Called at a session's start, before base points are chosen: the commit is the repository's, so between it and
    the catalogue's row there is a moment in which a session can die, or lose the agent.
    """
    adopted = 0
    for session in context.catalog.sessions.list(job=job, limit=_SESSIONS_LOOKED_AT):
        code = session.error.code if session.error is not None else ""
        if code == SessionDied.code or code in _UNANSWERED:
            for sid in _in_doubt(context, session.id, died=code == SessionDied.code):
                adopted += _adopt(context, sid, session.id, keys)
    return adopted


def _in_doubt(context: Context, session: int, died: bool) -> list[Sid]:
    """Of which points nobody knows whether they exist: all of a session that died, else those that failed so late."""
    begun: dict[object, Sid] = {}
    found: list[Sid] = []
    for event in context.catalog.events.after(session, limit=1 << 20):
        if event.kind == RepositorySessionBegun.__name__:
            sid = begun[event.data["vm"]] = Sid(str(event.data["sid"]))
            if died:
                found.append(sid)
        elif event.kind == VmFailed.__name__ and event.step == Step.COMMIT and not died:
            found.append(begun[event.data["vm"]])
    return found


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
    told = f"restore point {sid[:8]}, of which session {session} had not heard, was remembered"
    context.recorder.note(f"{point.vm_name}: {told}")
    return True
