"""Write sessions, from their begin to their commit."""

from __future__ import annotations

from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import PointEntry

from ..specs import PackRef
from .base import Reply, Request


class BeginSession(Request, frozen=True, tag=True, kw_only=True):
    """Open the write session ``sid`` in the repository; the base point is chosen only after this."""

    lease: str
    repository: str
    sid: Sid


class StoreBlob(Request, frozen=True, tag=True, kw_only=True):
    """Store one sealed record of at most 4 MiB (a VM's configuration) as part of the session's packs."""

    lease: str
    repository: str
    sid: Sid
    mover: int
    record: bytes


class BlobStored(Reply, frozen=True, tag=True, kw_only=True):
    packs: tuple[PackRef, ...]


class ReadBlob(Request, frozen=True, tag=True, kw_only=True):
    """Read a blob record as it is stored, by its hex id."""

    repository: str
    blob: str


class BlobRecord(Reply, frozen=True, tag=True, kw_only=True):
    record: bytes


class CommitSession(Request, frozen=True, tag=True, kw_only=True):
    """Commit the restore point: the one act that makes it exist. Idempotent for the same bytes.

    ``retain_until``: Unix time before which nobody may prune it; in force before the point can be seen.
    """

    lease: str
    repository: str
    entry: PointEntry
    packs: tuple[PackRef, ...]
    retain_until: float = 0.0


class AbortSession(Request, frozen=True, tag=True, kw_only=True):
    """Give the session up: its outcome becomes FENCED. Idempotent; refused after a commit."""

    lease: str
    repository: str
    sid: Sid
