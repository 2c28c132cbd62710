"""What counts as a datastore where a hypervisor knows none: the directory that an image lies in."""

from __future__ import annotations

from pathlib import PurePosixPath


def directory_of(image: str) -> str:
    """The directory of an image's file or device; "" for one that has no path, as disks on a network."""
    path = PurePosixPath(image)
    return str(path.parent) if path.is_absolute() else ""
