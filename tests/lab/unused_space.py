"""Disks on which files were deleted, and what a backup without their unused space makes of them."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from holdfast_agent.disks.open import open_disk
from holdfast_agent.filesystems.survey import Survey, survey

from .disks import host_for

OLD_BYTE = 0xAA
"""What lies in blocks that nobody uses."""


def look(image: Path, grain: int = 65536) -> Survey:
    with closing(open_disk(f"file:{image}", host_for(image.parent))) as disk:
        return survey(disk, grain)


def live_on(folder: Path) -> None:
    """Write files of many sizes, delete two thirds of them, write more; and small ones, of which each second goes."""
    rng = random.Random(5)
    (folder / "small").mkdir()
    for number in range(500):
        (folder / "small" / f"{number}").write_bytes(rng.randbytes(3000))
    for number in range(150):
        (folder / f"{number}").write_bytes(rng.randbytes(rng.choice([0, 100, 5000, 70_000, 900_000])))
    subprocess.run(["sync", "-f", folder], check=True)  # what is deleted before it has a place leaves no gap
    for number in range(0, 500, 2):
        (folder / "small" / f"{number}").unlink()
    for number in range(0, 150, 3):
        (folder / f"{number}").unlink()
        (folder / f"{number + 1}").unlink()
    (folder / "folder").mkdir()
    for number in range(30):
        (folder / "folder" / f"{number}").write_bytes(rng.randbytes(30_000))


def restored(image: Path, found: Survey) -> Path:
    """The disk as it is after a backup and a restore: zeros where it was left out."""
    copy = image.with_name(f"{image.name}.restored")
    shutil.copyfile(image, copy)
    with copy.open("r+b") as file:
        for extent in found.unused:
            file.seek(extent.start)
            file.write(bytes(extent.length))
    return copy


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mark(offset: int, magic: bytes) -> Callable[[Path], None]:
    def mark(image: Path) -> None:
        with image.open("r+b") as file:
            file.seek(offset % image.stat().st_size)
            file.write(magic)

    return mark
