"""From a disk URL to an open disk. Backends are imported when they are used, so that a mover starts quickly."""

from __future__ import annotations

import os

from holdfast_agent.errors import UsageError
from holdfast_agent.model.disk_url import DiskScheme, parse_disk_url
from holdfast_agent.wire.movers import MoverHost

from .disk import ReadableDisk, WritableDisk


def open_disk(url: str, host: MoverHost) -> ReadableDisk:
    """Open a disk for reading; the caller closes it. Called in the mover's main thread.

    Raises :class:`DiskUrlInvalid`, :class:`DiskNotFound`, :class:`DiskDenied`, :class:`DiskUnreadable` (retryable),
    :class:`ToolMissing`.
    """
    parsed = parse_disk_url(url)
    if parsed.scheme in (DiskScheme.FILE, DiskScheme.BLOCK):
        from .raw import RawDisk

        return RawDisk(parsed, host)
    if parsed.scheme is DiskScheme.IMAGE:
        from .image import ImageDisk

        return ImageDisk(parsed, host)
    from .nbd_disk import NbdDisk
    from .places import open_allowed, real_path

    fd = open_allowed(parsed.path, os.O_PATH, url, host)
    try:
        path = real_path(fd)
    finally:
        os.close(fd)
    return NbdDisk(path, parsed.option("export"), url, host, parsed.option("bitmap"))


def open_target(url: str, host: MoverHost, size_bytes: int, *, create: bool, overwrite: bool) -> WritableDisk:
    """Open a disk to restore ``size_bytes`` to.

    ``create``: a new sparse file, refused if there is one unless ``overwrite``; it appears under its name only when it
    is whole. Without ``create``, and for block devices always, the disk must exist and be large enough.
    Raises as :func:`open_disk`, and :class:`DiskExists`, :class:`DiskInUse`, :class:`DiskUnwritable`,
    :class:`UsageError`.
    """
    parsed = parse_disk_url(url)
    if parsed.scheme not in (DiskScheme.FILE, DiskScheme.BLOCK):
        raise UsageError(reason=f"{parsed.scheme}: disks can be read only; restore to file: or block:")
    from .raw_target import ExistingTarget, NewFileTarget

    if parsed.scheme is DiskScheme.FILE and create:
        return NewFileTarget(parsed, host, size_bytes, overwrite=overwrite)
    return ExistingTarget(parsed, host, size_bytes)
