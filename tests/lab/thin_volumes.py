"""Disks with thin volumes of LVM, made by LVM and the kernel itself in a User-mode Linux."""

from __future__ import annotations

from pathlib import Path

from .devices import MIB
from .tools import require_tool
from .uml import run_in_uml

_DISK_BYTES = 24 * MIB
_MOST_S = 120.0


def make_thin(folder: Path, before: Path, after: Path) -> tuple[Path, Path]:
    """Two disks with one pool, on which a volume holds the image ``after``, and a snapshot of it the image ``before``.

    ``folder``: an empty one.
    """
    require_tool("lvm", "lvm2")
    disks = folder / "pv0.img", folder / "pv1.img"
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(_DISK_BYTES)
    status, output = run_in_uml(folder, disks, "thin_guest", [str(before), str(after)], _MOST_S)
    assert status == 0, output
    return disks
