"""What the service remembers of jobs, and needs to know of their sessions."""

from __future__ import annotations

import msgspec

from .sessions import SessionResult


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """What the service remembers of a job. Times are Unix seconds.

    ``key``: the schedule that it belongs to ("": the job was not scheduled). ``handled``: starts until then are dealt
    with. ``followed``: the newest session of the job before in the chain that is dealt with. ``arrived``: the number of
    the newest point that is dealt with, of those that an immediate copy waits for. ``session``: the last one
    that the service started, until its end is dealt with. ``failed``: the one that is run again at ``retry_at``.
    ``attempt``: retries since the last start.
    """

    key: str = ""
    handled: float = 0.0
    followed: int = 0
    arrived: int = 0
    session: int | None = None
    failed: int | None = None
    retry_at: float | None = None
    attempt: int = 0


class LastSession(msgspec.Struct, frozen=True):
    """The newest session of a job. ``ended`` None: it lives."""

    id: int
    ended: float | None
    result: SessionResult
