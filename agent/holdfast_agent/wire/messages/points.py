"""Restore points: what there is, and how long it stays."""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import PointEntry

from ..specs import BlockTree
from .base import Reply, Request


class ListPoints(Request, frozen=True, tag=True, kw_only=True):
    """Committed points in pages: those with ids after ``after``, at most ``limit``, ascending by id.

    ``hidden``: instead those that were pruned, also long ago: a copy that was pruned is not made again.
    """

    repository: str
    after: str = ""
    limit: int = 500
    hidden: bool = False


class ReadPoint(Request, frozen=True, tag=True, kw_only=True):
    """One committed point, as a :class:`PointList` of one; ``PointNotFound`` when it is not there (any more)."""

    repository: str
    sid: Sid


class CompareTrees(Request, frozen=True, tag=True, kw_only=True):
    """Where two disks of points of one repository differ, by the ids of their blocks; no key needed. Since 1.2."""

    repository: str
    tree: BlockTree
    since: BlockTree


class TreesCompared(Reply, frozen=True, tag=True, kw_only=True):
    """``extents``: ascending, in whole blocks, at most 65,536 of them; ``more``: of ``changed_bytes`` there are others.
    Where one disk is larger, what lies beyond the other counts unless it is a hole."""

    changed_bytes: int
    extents: tuple[Extent, ...]
    more: bool = False


class RetainedPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What protects a point from pruning: Unix time ``until`` which nobody may prune it (0: none), and a hold."""

    sid: Sid
    until: float = 0.0
    hold: bool = False


class PointList(Reply, frozen=True, tag=True, kw_only=True):
    """``more``: ask again after the last id of this page. ``retained``: those of the page that are protected."""

    points: tuple[PointEntry, ...]
    more: bool
    retained: tuple[RetainedPoint, ...] = ()


class PointToPrune(msgspec.Struct, frozen=True, kw_only=True):
    """``reason``: a sentence for people, kept in the tombstone."""

    sid: Sid
    reason: str = ""


class TombstonePoints(Request, frozen=True, tag=True, kw_only=True):
    """Prune up to 1000 points: hide them now, and let the collector have them when ``window_s`` is over.

    A point that may not be pruned does not spoil the others. Idempotent.
    """

    repository: str
    points: tuple[PointToPrune, ...]
    window_s: float


class PruneOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """``error`` None: the point is hidden, now or since before. ``undo_until``: Unix time, by the agent's clock."""

    sid: Sid
    undo_until: float = 0.0
    error: ErrorRecord | None = None


class PointsPruned(Reply, frozen=True, tag=True, kw_only=True):
    """One outcome for each point asked for, in that order."""

    outcomes: tuple[PruneOutcome, ...]


class UndoTombstone(Request, frozen=True, tag=True, kw_only=True):
    """Give a pruned point back, as a :class:`PointList` of one. ``UndoWindowOver`` once the collector has it."""

    repository: str
    sid: Sid


class RetainPoint(Request, frozen=True, tag=True, kw_only=True):
    """Protect a point: ``until`` extends its time (an earlier one changes nothing), ``hold`` sets or lifts the hold."""

    repository: str
    sid: Sid
    until: float = 0.0
    hold: bool | None = None


class PointRetention(Reply, frozen=True, tag=True, kw_only=True):
    """What protects the point now."""

    retained: RetainedPoint
