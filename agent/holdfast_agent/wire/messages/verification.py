"""Is all there and whole?"""

from __future__ import annotations

from typing import Annotated

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.ids import Sid

from .base import Push, Request


class VerifyBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a verification; 0 means none. Packs longest unread come first, so that short runs go round.

    ``older_than_s``: only packs that this host has not found whole within so many seconds. ``max_duration_s``: begin no
    further pack (level 2: block) after so many. ``sample_percent``: of the packs (blocks) that are due, drawn anew.
    """

    older_than_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_duration_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    sample_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 100.0


class VerifyRepository(Request, frozen=True, tag=True, kw_only=True):
    """Check at level 0 or 1 (no keys needed); ``points`` empty means all. Progress comes as pushes with ``ticket``.

    ``tables``: at level 0 read the tables of contents of the packs too. What is bad is noted in the repository's
    quarantine, so that the next backup stores it again; nothing is deleted. The reply is :class:`Done` at once; the
    end is a :class:`VerifyEnded`.
    """

    lease: str
    ticket: str
    repository: str
    level: int
    points: tuple[Sid, ...] = ()
    budget: VerifyBudget = VerifyBudget()
    tables: bool = False


class StopVerification(Request, frozen=True, tag=True, kw_only=True):
    """Stop a verification; its :class:`VerifyEnded` follows and says so. Idempotent."""

    lease: str
    ticket: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong. ``points``: restore points that it touches. ``lost``: data cannot be read any more."""

    object: str
    kind: str
    detail: str
    points: tuple[Sid, ...] = ()
    lost: bool = False


class VerifyProgress(Push, frozen=True, tag=True, kw_only=True):
    ticket: str
    checked_bytes: int
    total_bytes: int


class VerifyEnded(Push, frozen=True, tag=True, kw_only=True):
    """``packs_checked`` were read and ``packs_left`` not, by the budget. ``known``: bad things that are in quarantine
    and cost no data (any more). ``noted``: notes that are new in quarantine."""

    ticket: str
    findings: tuple[Finding, ...] = ()
    objects_checked: int = 0
    checked_bytes: int = 0
    packs_checked: int = 0
    packs_left: int = 0
    known: int = 0
    noted: int = 0
    error: ErrorRecord | None = None
