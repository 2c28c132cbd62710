"""Sessions of whose process nothing is known: given up by who has heard no sign of life for long enough.

No word of a clock on the wall is taken for that: they leap, and those of two hosts differ. Whoever looks writes his
doubt into the session's row, with the time of a clock that nothing sets; a session that lives strikes all doubts out
each few seconds. So a doubt that still stands when the session's patience is over is right. Each host has a doubt of
its own, which all its processes share, since they share that clock; after a restart of the host it begins anew.
"""

from __future__ import annotations

from .processes import Moment
from .values import SessionEntry, SessionState

TO_BEGIN_S = 300.0
"""A session may be silent so long on a host that nobody can look at, until its process says more."""
_TO_ADOPT_S = 20.0
"""So long a process may take to adopt a session whose giver has died in between."""
_DOUBT_AGAIN = 4
"""In this part of the patience a doubt that was struck out is not written down again."""


def patience_with(entry: SessionEntry) -> float | None:
    """For how many seconds it may be silent. None: it lives for sure; 0: it is dead for sure."""
    if not entry.process.is_here():
        return entry.patience_s or TO_BEGIN_S
    if not entry.process.is_dead():
        return None
    return _TO_ADOPT_S if entry.state is SessionState.STARTING else 0.0


def is_dead(entry: SessionEntry, now: Moment) -> bool:
    """Whether to give it up."""
    patience = patience_with(entry)
    if not patience:
        return patience is not None
    since = entry.doubts.get(now.boot_id) if entry.doubts else None
    return since is not None and now.seconds - since >= patience


class Doubts:
    """What one process has doubted lately, so that it does not write it down after each sign of life. Thread-safe."""

    def __init__(self) -> None:
        self._written: dict[int, float] = {}

    def is_new(self, entry: SessionEntry, now: Moment) -> bool:
        """Whether a doubt is to be written down."""
        patience = patience_with(entry)
        if not patience or (entry.doubts and now.boot_id in entry.doubts):
            return False
        last = self._written.get(entry.id)
        return last is None or now.seconds - last >= patience / _DOUBT_AGAIN

    def written(self, entry: SessionEntry, now: Moment) -> dict[str, float]:
        """All doubts of a session, with the one that is written now."""
        self._written[entry.id] = now.seconds
        return {**(entry.doubts or {}), now.boot_id: now.seconds}
