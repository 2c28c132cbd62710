"""What a disk that a hypervisor's plugin froze holds, and what of it changed: asked as a mover asks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from holdfast_agent.disks.disk import ReadableDisk, changed_extents
from holdfast_agent.disks.open import open_disk
from holdfast_agent.model.disk_url import parse_disk_url, with_bitmap
from holdfast_agent.model.geometry import Extent
from lab.disks import host_for


@contextlib.contextmanager
def opened(url: str, folder: Path, ca: Path | None = None, timeout_s: float = 60.0) -> Iterator[ReadableDisk]:
    """A disk as an agent opens it that may open what lies in ``folder``, and the server that the URL names.

    ``ca``: the authority that it trusts; None: the one in ``folder``, if there is one.
    """
    parsed, own = parse_disk_url(url), folder / "pki" / "ca-cert.pem"
    servers = [parsed.origin] if parsed.host else []
    trusted = ca or (own if own.exists() else None)
    disk = open_disk(url, host_for(folder, *servers, timeout_s=timeout_s, ca=trusted))
    try:
        yield disk
    finally:
        disk.close()


def read_whole(url: str, folder: Path, ca: Path | None = None, timeout_s: float = 60.0) -> bytes:
    with opened(url, folder, ca, timeout_s) as disk:
        buffer = bytearray(disk.size_bytes)
        disk.read_into(0, memoryview(buffer))
        return bytes(buffer)


def extents_of(
    url: str, bitmap: str, folder: Path, ca: Path | None = None, timeout_s: float = 60.0
) -> Sequence[Extent]:
    """What a dirty bitmap tells."""
    with opened(with_bitmap(url, bitmap), folder, ca, timeout_s) as disk:
        return [Extent(extent.start, extent.length) for extent in changed_extents(disk)]
