"""Directories that this driver makes, and the only places where it ever deletes.

A name comes back from the journal, possibly long after; it is checked against the exact form that was made, so that
a damaged or forged obligation cannot make the driver delete anything else.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from .copying import take_over_owner

MARKER = "HOLDFAST-SNAPSHOTS"
_SNAPSHOT = re.compile(r"snapshot-[0-9a-f]{16}")
_BESIDE = re.compile(r"\.(?P<vm>[^/\0]+)\.(?P<purpose>[a-z]+)-[0-9a-f]{16}")


class Purpose(StrEnum):
    """What a hidden folder beside the VMs is for.

    ``RESTORING``: a new VM is being written. ``REPLACING``: likewise, but it may replace the VM of its name.
    ``REPLACED``: a VM that makes room for its successor.
    """

    RESTORING = "restoring"
    REPLACING = "replacing"
    REPLACED = "replaced"


def new_snapshot_name() -> str:
    return f"snapshot-{secrets.token_hex(8)}"


def is_snapshot_name(name: str) -> bool:
    return bool(_SNAPSHOT.fullmatch(name))


def new_name_beside(vm: str, purpose: Purpose) -> str:
    return f".{vm}.{purpose}-{secrets.token_hex(8)}"


def parse_name_beside(name: str) -> tuple[str, Purpose] | None:
    """VM and purpose of a name made by :func:`new_name_beside`; None for any other name."""
    match = _BESIDE.fullmatch(name)
    if match is None or match["purpose"] not in frozenset(Purpose):
        return None
    return match["vm"], Purpose(match["purpose"])


def make_snapshot_root(root: Path, like: Path) -> None:
    """Make ``root`` with its marker, owned and readable as the directory ``like`` is. Idempotent."""
    if not root.is_dir():
        root.mkdir(mode=0o700, exist_ok=True)
        adopt(root, like)
    with suppress(FileExistsError):
        # The directory's owner may be less than we are: what stands there is never followed.
        marker = os.open(root / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(marker, "w") as file:
            file.write("Holdfast keeps frozen copies of disk images here while it backs them up.\n")


def has_marker(root: Path) -> bool:
    """Whether ``root`` is a directory made by :func:`make_snapshot_root`, and not an empty mount point."""
    return (root / MARKER).is_file()


def make_directory(path: Path, like: Path) -> None:
    """Make ``path``, owned and readable as ``like`` is. Raises ``FileExistsError``."""
    path.mkdir(mode=0o700)
    adopt(path, like)


def adopt(path: Path, like: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        take_over_owner(descriptor, like.stat())
    finally:
        os.close(descriptor)


def delete_tree(path: Path) -> None:
    """Delete a directory that this module named; what is gone already is success. Follows no links."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():
            shutil.rmtree(path)  # a file vanished while we deleted: once more for the rest
