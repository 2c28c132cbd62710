"""Disks of Linux RAID arrays, made by mdadm and the kernel itself in a User-mode Linux."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .devices import MIB
from .tools import require_tool
from .uml import run_in_uml

_MEMBER_BYTES = 16 * MIB
_MOST_S = 120.0


class Wanted(NamedTuple):
    """Options of mdadm for an array of so many disks."""

    options: Sequence[str]
    disks: int


def make_arrays(folder: Path, wanted: Mapping[str, Wanted], content: Path) -> dict[str, list[Path]]:
    """Images of the disks of each array, all of which hold ``content``. ``folder``: an empty one."""
    require_tool("mdadm", "mdadm")
    made = {name: [folder / f"{name}-{number}.img" for number in range(each.disks)] for name, each in wanted.items()}
    disks = [disk for members in made.values() for disk in members]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(_MEMBER_BYTES)
    arguments = json.dumps([(name, each.options, each.disks, str(content)) for name, each in wanted.items()])
    status, output = run_in_uml(folder, disks, "raid_guest", [arguments], _MOST_S)
    assert status == 0, output
    return made
