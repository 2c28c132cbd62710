"""Disks with logical volumes, made by LVM's own tools without the kernel's device mapper."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .devices import MIB, loop_device
from .tools import require_tool

EXTENT = MIB
FIRST_EXTENT = MIB
_CONFIG = """
devices {{ use_devicesfile=0 scan=["/dev"] filter=[{allowed} "r|.*|"] }}
global {{ use_lvmpolld=0 event_activation=0 }}
activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}
backup {{ backup=0 archive=0 }}
"""


class Wanted(NamedTuple):
    """A volume, what is to be in it, and over how many disks it is striped."""

    name: str
    content: Path
    stripes: int = 1


def make_group(group: str, images: Sequence[Path], volumes: Sequence[Wanted]) -> None:
    """Make each image a physical volume of ``group``, and the logical ones on them with their contents."""
    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(loop_device(image)) for image in images]
        allowed = "".join(f'"a|{device}|",' for device in devices)
        config = ("--config", _CONFIG.format(allowed=allowed))
        _lvm("pvcreate", *config, "--driverloaded", "n", *devices)
        _lvm("vgcreate", *config, "--driverloaded", "n", "--physicalextentsize", f"{EXTENT}b", group, *devices)
        for volume in volumes:
            size = f"{volume.content.stat().st_size}b"
            stripes = ("--stripes", str(volume.stripes), "--stripesize", "16k") if volume.stripes > 1 else ()
            inactive = ("--driverloaded", "n", "--activate", "n", "--zero", "n", "--wipesignatures", "n")
            _lvm("lvcreate", *config, *inactive, *stripes, "--size", size, "--name", volume.name, group)
        columns = "lv_name,seg_start_pe,stripe_size,seg_pe_ranges"
        options = ("--segments", "--noheadings", "--units", "b", "--nosuffix", "--separator", ";", "-o", columns)
        told = _lvm("lvs", *config, *options, group)
    contents = {volume.name: volume.content.read_bytes() for volume in volumes}
    images_of = dict(zip(devices, images, strict=True))
    for line in told.splitlines():
        name, start, stripe, ranges = line.strip().split(";")
        places = [(images_of[device], int(first), int(last)) for device, first, last in _RANGE.findall(ranges)]
        _fill(contents[name][int(start) * EXTENT :], int(stripe) or EXTENT, places)


_RANGE = re.compile(r"(/dev/\w+):(\d+)-(\d+)")


def _fill(content: bytes, stripe: int, places: list[tuple[Path, int, int]]) -> None:
    """Write the content of one segment by turns to its places."""
    extents = places[0][2] - places[0][1] + 1
    content = content[: extents * EXTENT * len(places)]
    for turn, at in enumerate(range(0, len(content), stripe)):
        image, first, _ = places[turn % len(places)]
        with image.open("r+b") as file:
            file.seek(FIRST_EXTENT + first * EXTENT + turn // len(places) * stripe)
            file.write(content[at : at + stripe])


def _lvm(command: str, *arguments: str) -> str:
    environment = os.environ | {"LVM_SUPPRESS_FD_WARNINGS": "1"}
    done = subprocess.run(
        [require_tool("lvm", "lvm2"), command, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
