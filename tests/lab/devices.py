"""Block devices and small file systems for tests, on loop devices. They need root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .tools import missing, require_tool


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """The path of a block device with the content of ``image``."""
    losetup = require_tool("losetup", "mount")
    if os.geteuid() != 0:
        missing("a loop device needs root")
    made = subprocess.run([losetup, "--find", "--show", image], check=False, capture_output=True, text=True)
    if made.returncode:
        missing(f"a loop device is not possible here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run([losetup, "--detach", device], check=True)


@contextmanager
def mounted(image: Path, mount_point: Path, options: str = "defaults") -> Iterator[Path]:
    """``mount_point``, made, with the file system of ``image``."""
    mount_point.mkdir()
    with loop_device(image) as device:
        subprocess.run(["mount", "-o", options, device, mount_point], check=True)
        try:
            yield mount_point
        finally:
            subprocess.run(["umount", mount_point], check=True)
            mount_point.rmdir()


@contextmanager
def small_file_system(directory: Path, size_bytes: int) -> Iterator[Path]:
    """An ext4 of ``size_bytes`` in all, mounted below ``directory``."""
    mkfs = require_tool("mkfs.ext4", "e2fsprogs")
    image, mount_point = directory / "small.img", directory / "small"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([mkfs, "-q", "-F", "-m", "0", image], check=True)
    with mounted(image, mount_point):
        yield mount_point
