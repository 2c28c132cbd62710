"""A proxy's disks and exports."""

from __future__ import annotations

import msgspec

from .base import Reply, Request


class ProbeDisk(Request, frozen=True, tag=True, kw_only=True):
    """Can this proxy open the disk? Answers :class:`DiskFacts` or the error that opening it gives."""

    disk: str


class DiskFacts(Reply, frozen=True, tag=True, kw_only=True):
    size_bytes: int


class ListExports(Request, frozen=True, tag=True, kw_only=True):
    """What this manager's writable exports left on this host, those that are in use among them. Since 1.2."""


class KeptExport(msgspec.Struct, frozen=True, kw_only=True):
    """``stored_bytes``: what its writes take on the storage. ``in_use``: an exporter serves it now."""

    name: str
    stored_bytes: int
    in_use: bool


class ExportList(Reply, frozen=True, tag=True, kw_only=True):
    exports: tuple[KeptExport, ...]


class DiscardExport(Request, frozen=True, tag=True, kw_only=True):
    """Remove what was written to an export of this manager. Idempotent; ``Locked`` while it is in use. Since 1.2."""

    export: str
