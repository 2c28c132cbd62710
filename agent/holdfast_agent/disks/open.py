"""From a disk URL to an open disk. Backends are imported when they are used, so that a mover starts quickly."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.errors import UsageError
from holdfast_agent.model.disk_access import DiskAccess, access_to
from holdfast_agent.model.disk_url import DiskScheme, parse_disk_url
from holdfast_agent.wire.movers import MoverHost

from .disk import ReadableDisk, WritableDisk

_NBD = (DiskScheme.NBD_UNIX, DiskScheme.NBD, DiskScheme.NBDS)
_WEB = (DiskScheme.HTTPS, DiskScheme.HTTP)


def open_disk(url: str, host: MoverHost, granted: Sequence[DiskAccess] = ()) -> ReadableDisk:
    """Open a disk for reading; the caller closes it. Called in the mover's main thread.

    ``granted``: secrets that came with the order; those for the URL's server are used.
    Raises :class:`DiskUrlInvalid`, :class:`DiskNotFound`, :class:`DiskDenied`, :class:`DiskServerDenied`,
    :class:`DiskServerUntrusted`, :class:`DiskUnreadable` (retryable), :class:`ToolMissing`.
    """
    parsed = parse_disk_url(url)
    if parsed.scheme in (DiskScheme.FILE, DiskScheme.BLOCK):
        from .raw import RawDisk

        return RawDisk.open(parsed, host)
    if parsed.scheme is DiskScheme.IMAGE:
        from .image import ImageDisk

        return ImageDisk(parsed, host)
    if parsed.scheme is DiskScheme.SYNTHETIC:
        from .synthetic import SyntheticDisk

        return SyntheticDisk(parsed)
    if parsed.scheme is DiskScheme.VDDK:
        from .vddk import VddkDisk

        return VddkDisk(parsed, host, access_to(parsed, granted))
    if parsed.scheme in _WEB:
        from .web.disk import WebDisk

        return WebDisk(parsed, host, access_to(parsed, granted))
    from .nbd.dial import dialler
    from .nbd.disk import NbdDisk
    from .nbd.export import NbdExport

    export = NbdExport(dialler(parsed, host, access_to(parsed, granted)), url, host.workers, resume=True)
    return NbdDisk(export, url, parsed.option("bitmap"))


def open_target(
    url: str,
    host: MoverHost,
    size_bytes: int,
    *,
    create: bool,
    overwrite: bool,
    granted: Sequence[DiskAccess] = (),
) -> WritableDisk:
    """Open a disk to restore ``size_bytes`` to.

    ``create``: a new file, refused if there is one unless ``overwrite``; it appears under its name only when it is
    whole. Without ``create``, and for block devices, NBD and VDDK always, the disk must exist and be large enough; it
    is a :class:`RewritableDisk` then. One on a web server is put there anew as a whole.
    Raises as :func:`open_disk`, and :class:`DiskExists`, :class:`DiskInUse`, :class:`DiskReadOnly`,
    :class:`DiskUnwritable`, :class:`UsageError`.
    """
    parsed = parse_disk_url(url)
    if parsed.scheme in _NBD:
        from .nbd.dial import dialler
        from .nbd.target import NbdTarget

        dial = dialler(parsed, host, access_to(parsed, granted))
        return NbdTarget(dial, url, host, size_bytes, parsed.option("bitmap"))
    if parsed.scheme in _WEB:
        from .web.target import WebTarget

        return WebTarget(parsed, host, access_to(parsed, granted), size_bytes, create=create, overwrite=overwrite)
    if parsed.scheme is DiskScheme.VDDK:
        from .vddk import VddkTarget

        return VddkTarget(parsed, host, access_to(parsed, granted), size_bytes)
    if parsed.scheme is DiskScheme.IMAGE and create:
        from .new_image import NewImageTarget

        return NewImageTarget(parsed, host, size_bytes, overwrite=overwrite)
    if parsed.scheme is DiskScheme.IMAGE:
        from .image import ImageTarget

        return ImageTarget(parsed, host, size_bytes)
    if parsed.scheme not in (DiskScheme.FILE, DiskScheme.BLOCK):
        raise UsageError(reason=f"{parsed.scheme}: disks can be read only")
    from .raw_target import ExistingTarget, NewFileTarget

    if parsed.scheme is DiskScheme.FILE and create:
        return NewFileTarget(parsed, host, size_bytes, overwrite=overwrite)
    return ExistingTarget(parsed, host, size_bytes)
