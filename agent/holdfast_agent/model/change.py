"""Change modes: how a backup finds the blocks that it must read."""

from __future__ import annotations

from enum import StrEnum

import msgspec


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
    """The mode chosen for one disk and, in one sentence for people, why."""

    mode: ChangeMode
    reason: str
