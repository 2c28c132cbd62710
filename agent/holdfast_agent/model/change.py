"""Change modes: how a backup finds the blocks that it must read."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

import msgspec

MOST_AUDITED_BLOCKS = 1 << 18
"""The largest sample that is drawn, unless it is all blocks: what drawing takes is bounded by it."""


class ChangeMode(StrEnum):
    """Tried per disk in this order; each falls to the next when its ground is missing.

    ``CBT``: only extents that change tracking names are read. ``ALLOCATION``: a first full that reads allocated
    areas only. ``DIGEST``: all allocated areas are read and compared by id with the base point. ``FULL``: all
    of the disk is read and offered to the repository.
    """

    CBT = "cbt"
    ALLOCATION = "allocation"
    DIGEST = "digest"
    FULL = "full"


class ChangeDecision(msgspec.Struct, frozen=True):
    """The mode chosen for one disk and, in one sentence for people, why.

    ``tracker``: the change tracker on whose word parts of the disk are not read; empty without one.
    """

    mode: ChangeMode
    reason: str
    tracker: str = ""


class AuditRate(msgspec.Struct, frozen=True):
    """How many of the blocks that are taken on a tracker's word are read nevertheless, and compared.

    ``blocks`` in every run of a disk, or ``percent`` of them where that is not zero. Both zero: none at all.
    """

    blocks: Annotated[int, msgspec.Meta(ge=0)] = 64
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0

    @property
    def off(self) -> bool:
        return not self.blocks and not self.percent

    def of(self, total: int) -> int:
        """The size of a sample of ``total`` blocks: at least one while there is any, for a share is never nothing."""
        wanted = math.ceil(total * self.percent / 100) if self.percent else self.blocks
        return total if wanted >= total else min(wanted, MOST_AUDITED_BLOCKS)


class AuditOutcome(StrEnum):
    """What a restore point remembers of the audit of one disk.

    ``NONE``: nothing was taken on a tracker's word, or the audit was off. ``FAILED``: change tracking had missed
    changes since the base point, and the whole disk was compared; the point itself is right.
    """

    NONE = "none"
    PASSED = "passed"
    FAILED = "failed"
