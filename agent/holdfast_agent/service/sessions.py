"""Write sessions: each belongs to a lease and ends with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from holdfast_agent.errors import UsageError
from holdfast_agent.model.ids import Sid

MOST_WRITERS = 1_000_000


class HeldLock(Protocol):
    """The lock of a session record; free when all processes that have the descriptor are gone."""

    @property
    def fd(self) -> int: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class WriteSession:
    """An open session of a repository. ``lock`` is held by this process and by every target mover that inherited it.

    ``ending``: a commit or an abort is under way, so that nothing else may begin.
    """

    repository: str
    sid: Sid
    lock: HeldLock
    ending: bool = False


def check_mover_number(number: int) -> None:
    """Numbers of a session's writers become part of pack names. Raises :class:`UsageError`."""
    if not 0 <= number < MOST_WRITERS:
        raise UsageError(reason=f"the number of a writer is 0 to {MOST_WRITERS - 1}, not {number}")
