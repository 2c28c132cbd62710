"""A file system with reflinks for tests, which most temporary directories do not have."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .tools import missing, require_tool

_IMAGE_BYTES = 512 << 20
"""mkfs.xfs refuses less than 300 MB; the file is sparse and takes some 10 MB."""


@contextmanager
def reflink_file_system(directory: Path) -> Iterator[Path]:
    """A small XFS, mounted below ``directory``. Needs root; elsewhere the test is skipped."""
    mkfs = require_tool("mkfs.xfs", "xfsprogs")
    if os.geteuid() != 0:
        missing("mounting a file system with reflinks needs root")
    image, mount_point = directory / "xfs.img", directory / "xfs"
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run([mkfs, "-q", "-m", "reflink=1", image], check=True)
    mount_point.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, mount_point], check=False, capture_output=True, text=True)
    if done.returncode:
        missing(f"a loop mount is not possible here: {done.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", mount_point], check=True)
        image.unlink()
