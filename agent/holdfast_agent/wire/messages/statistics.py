"""What a repository and its points take."""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import ErrorRecord
from holdfast_agent.model.ids import Sid

from .base import Push, Request


class RepositoryStatistics(Request, frozen=True, tag=True, kw_only=True):
    """Count what points, VMs and the whole repository take. Reads all trees; no key needed.

    ``points``: tell of these only (empty: of the newest). The reply is :class:`Done` at once; the end is a
    :class:`StatisticsEnded` with ``ticket``.
    """

    lease: str
    ticket: str
    repository: str
    points: tuple[Sid, ...] = ()


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes. ``logical``: of the disks. ``used``: of their blocks that are no holes, counted as often as they occur.

    ``unique``: of their distinct blocks, plain. ``stored``: what those take in packs. ``metadata``: distinct tree nodes
    and configurations, in packs. ``freed``: all that would go from packs with these points and nothing else.
    """

    logical_bytes: int = 0
    used_bytes: int = 0
    unique_bytes: int = 0
    stored_bytes: int = 0
    metadata_bytes: int = 0
    freed_bytes: int = 0


class PointSizes(msgspec.Struct, frozen=True, kw_only=True):
    sid: Sid
    sizes: Sizes


class VmSizes(msgspec.Struct, frozen=True, kw_only=True):
    """All points of one VM together."""

    server: str
    vm_id: str
    vm_name: str
    points: int
    sizes: Sizes


class StatisticsEnded(Push, frozen=True, tag=True, kw_only=True):
    """``packs_bytes``: all packs on the storage, also what no point refers to. ``left_off``: points not told of."""

    ticket: str
    total: Sizes = Sizes()
    packs_bytes: int = 0
    vms: tuple[VmSizes, ...] = ()
    points: tuple[PointSizes, ...] = ()
    left_off: int = 0
    error: ErrorRecord | None = None
