"""Garbage collection."""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import ErrorRecord

from .base import Push, Request


class CollectGarbage(Request, frozen=True, tag=True, kw_only=True):
    """Remove what no restore point refers to, beside whatever runs. ``dry_run``: only say what would be removed.

    The reply is :class:`Done` at once; progress comes as pushes with ``ticket``, the end is a :class:`CollectEnded`.
    It may wait for backups that run. It ends with its lease, or by :class:`StopVerification`; the next one goes on from
    there.
    """

    lease: str
    ticket: str
    repository: str
    dry_run: bool = False


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection found and did; of a dry run, what it would do. One that resumes another knows less: zeros then.

    ``lost_records`` are needed and in no pack. ``fenced_sessions`` were found dead while it waited.
    """

    generation: int
    packs: int = 0
    stored_bytes: int = 0
    points: int = 0
    live_records: int = 0
    live_bytes: int = 0
    lost_records: int = 0
    condemned_packs: int = 0
    moved_bytes: int = 0
    fenced_sessions: int = 0
    swept_packs: int = 0
    freed_bytes: int = 0


class CollectProgress(Push, frozen=True, tag=True, kw_only=True):
    """``phase``: "marking" (nodes and segments, ``total`` 0), "compacting" (bytes), "waiting" (sessions), "sweeping"
    (packs)."""

    ticket: str
    phase: str
    done: int
    total: int


class CollectEnded(Push, frozen=True, tag=True, kw_only=True):
    ticket: str
    collection: Collection | None = None
    error: ErrorRecord | None = None
