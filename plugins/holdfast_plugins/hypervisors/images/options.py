"""The options of a server of kind `images` and of the jobs that back it up."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec


class SnapshotMethod(StrEnum):
    """How a disk is frozen.

    ``REFLINK``: the file system clones the file in an instant (XFS, btrfs, bcachefs, some NFS 4.2). ``COPY``: the file
    is copied, which takes time and space, and fails when the file changes meanwhile. ``IN_PLACE``: nothing is made,
    the image itself is read: only right when its owner sees to it that nobody writes to it until the session ends.
    ``AUTO``: a reflink where the file system can, else a copy.
    """

    AUTO = "auto"
    REFLINK = "reflink"
    COPY = "copy"
    IN_PLACE = "in-place"


class ImagesOptions(msgspec.Struct, frozen=True):
    """``path``: the directory, absolute. ``snapshot_dir``: where frozen files live, default ``<path>/.holdfast``.

    A reflink is only possible when both are on the same file system.
    """

    path: str
    snapshot: SnapshotMethod = SnapshotMethod.AUTO
    snapshot_dir: str = ""

    def __post_init__(self) -> None:
        for name in ("path", "snapshot_dir"):
            value = Path(getattr(self, name) or "/")
            if not value.is_absolute() or ".." in value.parts or "\0" in str(value):
                raise ValueError(f"{name} must be an absolute path without '..'")

    @property
    def directory(self) -> Path:
        return Path(self.path)

    @property
    def snapshots(self) -> Path:
        return Path(self.snapshot_dir) if self.snapshot_dir else self.directory / ".holdfast"


class ImagesSnapshotOptions(msgspec.Struct, frozen=True):
    """A job's choice of ``method``; None takes the server's."""

    method: SnapshotMethod | None = None
