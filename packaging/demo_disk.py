"""The demo's disk: an ext4 file system with files of this machine, or a copy of a given image, and changes to it.

No root is needed: the file system is made and changed by the tools of e2fsprogs, in a plain file.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

MIB = 1 << 20
SIZE_MIB, CONTENT_MIB = 1024, 400
TREES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/sbin")
TOOLS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
LARGEST_FILE = 32 * MIB  # no single file may be most of the disk
NEW_FILES, REMOVED_FILES = 4, 20


class ToolMissing(Exception):
    """A program that this needs is not installed; the text says how to get it."""


def make_disk(disk: Path, given: str) -> str:
    """Fill ``disk``: a copy of the image ``given``, else a file system with files of this machine. Says what it is."""
    if given:
        return _copy_given(Path(given), disk)
    mke2fs = shutil.which("mke2fs", path=TOOLS)
    with tempfile.TemporaryDirectory(dir=disk.parent.parent, prefix=".tree-") as scratch, disk.open("wb") as file:
        tree = Path(scratch)
        count, total = _copy_tree(tree)
        if mke2fs is None:
            _write_plainly(tree, file)
        file.truncate(SIZE_MIB * MIB)
        if mke2fs is not None:
            subprocess.run([mke2fs, "-q", "-t", "ext4", "-F", "-m", "0", "-d", tree, disk], check=True)
    kind = "ext4 disk" if mke2fs else "disk without a file system (mke2fs is missing: apt install e2fsprogs)"
    return f"a {SIZE_MIB} MiB {kind} with {count:,} files of this machine, {total // MIB} MiB"


def change_disk(disk: Path, part: float, made_here: bool) -> str:
    """Change about ``part`` of what is allocated; says what was done.

    In a file system made here files are written and removed, as a guest would; elsewhere stretches of 1 MiB within
    allocated areas are overwritten.
    """
    amount = int(disk.stat().st_blocks * 512 * part)
    debugfs = shutil.which("debugfs", path=TOOLS)
    if made_here and debugfs and shutil.which("mke2fs", path=TOOLS):
        return _change_files(disk, amount, debugfs)
    rng = random.Random(1)
    areas = [position for start, end in _extents(disk) for position in range(start, end - MIB + 1, MIB)]
    chosen = rng.sample(areas, min(len(areas), max(1, amount // MIB)))
    with disk.open("r+b") as file:
        for position in chosen:
            file.seek(position)
            file.write(rng.randbytes(MIB))
    return f"{len(chosen)} stretches of 1 MiB are overwritten"


def _copy_given(given: Path, disk: Path) -> str:
    with given.open("rb") as file:
        is_qcow2 = file.read(4) == b"QFI\xfb"
    if not is_qcow2:
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", given, disk], check=True)
    elif shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "convert", "-O", "raw", given, disk], check=True)
    else:
        raise ToolMissing(f"{given} is a qcow2 image; reading it needs qemu-img (Debian: apt install qemu-utils)")
    status = disk.stat()
    return f"a copy of {given}: {status.st_size // MIB:,} MiB, {status.st_blocks * 512 // MIB:,} MiB allocated"


def _machine_files() -> Iterator[Path]:
    """Files of this machine, of each tree in turn, so that the disk holds programs as well as documents."""
    walks = [_walk(Path(root)) for root in TREES]
    while walks:
        for files in list(walks):
            path = next(files, None)
            if path is None:
                walks.remove(files)
            else:
                yield path


def _walk(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root):
        for path in (Path(directory, name) for name in names):
            plain = not path.is_symlink() and path.is_file() and os.access(path, os.R_OK)
            if plain and path.stat().st_size <= LARGEST_FILE:
                yield path


def _copy_tree(tree: Path) -> tuple[int, int]:
    """Copy about CONTENT_MIB of files below ``tree``; returns their number and size."""
    count = total = 0
    for path in _machine_files():
        place = tree / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        count, total = count + 1, total + place.stat().st_size
        if total >= CONTENT_MIB * MIB:
            break
    return count, total


def _write_plainly(tree: Path, disk: BinaryIO) -> None:
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            with path.open("rb") as source:
                shutil.copyfileobj(source, disk, MIB)


def _change_files(disk: Path, amount: int, debugfs: str) -> str:
    with tempfile.TemporaryDirectory(dir=disk.parent.parent, prefix=".changes-") as scratch:
        orders = []
        for number in range(NEW_FILES):
            content = Path(scratch, str(number))
            content.write_bytes(random.Random(number).randbytes(amount // NEW_FILES))
            orders.append(f"write {content} written-after-the-first-backup.{number}")
        # The first of each tree, which are on the disk; those with names that debugfs takes as they are.
        plain = (path for path in _machine_files() if not set(str(path)) & set(" \t\"'\\"))
        orders += [f"rm {path}" for path in islice(plain, REMOVED_FILES)]
        script = Path(scratch, "orders")
        script.write_text("".join(f"{order}\n" for order in orders))
        subprocess.run([debugfs, "-w", "-f", script, disk], check=True, capture_output=True)
    return f"{NEW_FILES} new files with {amount // MIB} MiB are written, {REMOVED_FILES} files removed"


def _extents(path: Path) -> Iterator[tuple[int, int]]:
    """Allocated extents, half-open."""
    with path.open("rb") as file:
        end, size = 0, path.stat().st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, end
