"""Block devices and small file systems for tests, on loop devices. They need root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from .tools import missing, require_tool

MIB = 1 << 20


class FileSystem(NamedTuple):
    """How to make one. ``least_bytes``: what its maker asks for; the image is sparse."""

    maker: tuple[str, ...]
    package: str
    least_bytes: int


FILE_SYSTEMS = {
    "ext4": FileSystem(("mkfs.ext4", "-q", "-F", "-m", "0"), "e2fsprogs", 8 * MIB),
    "xfs": FileSystem(("mkfs.xfs", "-q", "-m", "reflink=1"), "xfsprogs", 304 * MIB),
    "btrfs": FileSystem(("mkfs.btrfs", "-q", "--mixed", "-m", "single"), "btrfs-progs", 96 * MIB),
}
WITH_REFLINKS = ("xfs", "btrfs")


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """The path of a block device with the content of ``image``; it is gone with this process at the latest."""
    losetup = require_tool("losetup", "mount")
    if os.geteuid() != 0:
        missing("a loop device needs root")
    made = subprocess.run([losetup, "--find", "--show", image], check=False, capture_output=True, text=True)
    if made.returncode:
        missing(f"a loop device is not possible here: {made.stderr.strip()}")
    device = made.stdout.strip()
    handle = os.open(device, os.O_RDONLY)
    # Of a device that somebody has open the kernel notes it, and does it when nobody has any more.
    subprocess.run([losetup, "--detach", device], check=True)
    try:
        yield device
    finally:
        os.fsync(handle)  # a driver outside of the kernel may still hold the device
        os.close(handle)


@contextmanager
def mounted(image: Path, mount_point: Path, options: str = "defaults") -> Iterator[Path]:
    """``mount_point``, made, with the file system of ``image``."""
    mount_point.mkdir()
    with loop_device(image) as device:
        subprocess.run(["mount", "-o", options, device, mount_point], check=True)
        try:
            yield mount_point
        finally:
            if subprocess.run(["umount", mount_point], check=False).returncode:  # a test failed with files open
                subprocess.run(["umount", "--lazy", mount_point], check=True)
            mount_point.rmdir()


@contextmanager
def mounted_apart(image: Path, mount_point: Path, options: str = "defaults", kind: str = "auto") -> Iterator[Path]:
    """The file system of ``image`` in a mount namespace of its own, at the path that is given.

    A namespace that somebody makes meanwhile would copy a mount of ours, and hold it: here unmounted is unmounted.
    """
    unshare = require_tool("unshare", "util-linux")
    mount_point.mkdir()
    work = 'mount -t "$1" -o "$2" "$3" "$4" && echo mounted && read -r _; umount "$4"'
    with loop_device(image) as device:
        command = [unshare, "--mount", "--propagation", "private", "sh", "-c", work, "sh", kind, options, device]
        with subprocess.Popen([*command, mount_point], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"mounted\n", f"{kind} cannot be mounted with {options}"
            try:
                yield Path(f"/proc/{process.pid}/root{mount_point}")
            finally:
                process.stdin.close()
                assert process.wait() == 0, "it cannot be unmounted: a file is open"
    mount_point.rmdir()


@contextmanager
def small_file_system(directory: Path, size_bytes: int = 0, kind: str = "ext4") -> Iterator[Path]:
    """A file system of ``size_bytes`` in all, or the least that it can have, mounted below ``directory``."""
    (program, *options), package, least_bytes = FILE_SYSTEMS[kind]
    mkfs = require_tool(program, package)
    image = directory / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(max(size_bytes, least_bytes))
    subprocess.run([mkfs, *options, image], check=True, stdout=subprocess.DEVNULL)
    with mounted(image, directory / kind):
        yield directory / kind
    image.unlink()


def fill_up(file: Path) -> None:
    """Give the whole rest of a file system to a new file: nobody can write as much as a byte to another one."""
    with file.open("wb", buffering=0) as filling:
        while _written(filling):
            os.fsync(filling.fileno())  # what was set aside for more extents than it took is free again only now


def _written(file: IO[bytes]) -> int:
    """Write on until nothing goes in any more; how many bytes went."""
    before, size = file.tell(), MIB
    while size >= 512:
        try:
            file.write(bytes(size))
        except OSError:
            size //= 2
    return file.tell() - before
