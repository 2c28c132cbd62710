"""Restore points as the catalogue knows them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec

from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Origin, Point


class PointState(StrEnum):
    """``SUSPECT``: an audit or a verification found something wrong; the next backup does not build on it."""

    OK = "ok"
    SUSPECT = "suspect"


class BootRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the last boot proof of a restore point ended, by ``session``. ``picture``: the file of its screen, or ""."""

    proved: bool
    at: float
    session: int
    reason: str
    seconds: float
    picture: str = ""


class PointEntryRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue remembers of a restore point, so that lists need no agent. The repository has the truth.

    ``session`` None: found by a rescan. ``stored_bytes``: what the repository appended for it. Times are Unix seconds.
    ``verified``: when every block of it was last read, decoded and compared, by a verification or a restore. ``held``
    and ``retained_until`` protect it from pruning; the repository holds the same and enforces it. ``undo_until``: it is
    pruned, and can be given back until about then (None: it is not pruned). ``origin``: of which point it is a copy.
    ``doubt``: why it is suspect though its blocks may all be whole: an audit found that some of them may be out of
    date. No verification clears that. ``boot``: how its last boot proof ended; ``booted``: when one last came up.
    """

    sid: Sid
    repository: str
    server: str
    job: str
    vm_id: str
    vm_name: str
    created: float
    size_bytes: int
    session: int | None = None
    stored_bytes: int = 0
    consistency: str = "crash"
    state: PointState = PointState.OK
    verified: float | None = None
    held: bool = False
    retained_until: float = 0.0
    undo_until: float | None = None
    origin: Origin | None = None
    doubt: str = ""
    boot: BootRecord | None = None
    booted: float | None = None


class PointScope(msgspec.Struct, frozen=True, kw_only=True):
    """Which points are meant: of VMs that ``vms`` names (by name, id or pattern; none: all) and ``exclude`` does not.

    ``jobs``: names or patterns of the jobs under which they are filed (none: all).
    """

    vms: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()

    def covers(self, point: Point | PointEntryRow) -> bool:
        """Whether a point is meant."""
        if self.vms and not _names(self.vms, point.vm_name, point.vm_id):
            return False
        return not _names(self.exclude, point.vm_name, point.vm_id) and (not self.jobs or _names(self.jobs, point.job))


def _names(entries: Sequence[str], name: str, number: str = "") -> bool:
    return any(entry in (name, number) or fnmatchcase(name, entry) for entry in entries)
