"""The drain: whoever may still refer to a condemned pack is decided before anything is swept."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from holdfast_agent.errors import Cancelled, ObjectMissing
from holdfast_agent.model.ids import parse_sid

from .. import layout
from ..repository import Repository

_POLL_S = 0.25


def drain(repository: Repository, stop: threading.Event, waiting: Callable[[int], None]) -> int:
    """List the sessions, then wait until each has an outcome; how many were found dead and given FENCED.

    Called after the condemned list is published. Sessions that begin later need no waiting for: they have read the
    list. A session is dead when its lock is free; one that is suspended is waited for, since no clock tells it from one
    that works. ``waiting`` is told how many are left. Raises :class:`Cancelled`.
    """
    left = [parse_sid(name.rpartition("/")[2]) for name in repository.store.names(layout.SESSIONS)]
    fenced = 0
    while left:
        undecided = []
        for sid in left:
            if repository.decided(sid):
                continue
            try:
                lock = repository.store.try_lock(layout.session_object(sid))
            except ObjectMissing:
                continue  # it ended just now; without a record nobody can commit
            if lock is None:
                undecided.append(sid)
                continue
            with contextlib.closing(lock):
                repository.abort(sid)
                fenced += 1
        left = undecided
        waiting(len(left))
        if left and stop.wait(_POLL_S):
            raise Cancelled(reason="garbage collection was stopped while it waited for backups")
    return fenced
