"""Block devices: real ones, on loop devices."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.errors import DiskDenied, DiskInUse, DiskNotFound, UsageError
from lab.contents import assert_same
from lab.devices import loop_device
from lab.disk_suite import SIZE, DiskSuite
from lab.disks import host_for, raw_image
from lab.tools import require_tool

MIB = 1 << 20


HOST = host_for(Path("/dev"))


class TestBlockDevice(DiskSuite):
    tells_holes = False

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[ReadableDisk]:
        assert SIZE % 512 == 0, "a loop device ends at a sector"
        with loop_device(raw_image(tmp_path / "disk")) as device:
            disk = open_disk(f"block:{device}", HOST)
            yield disk
            disk.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    image = tmp_path / "disk"
    image.write_bytes(b"\xaa" * (4 * MIB))
    with loop_device(image) as path:
        yield path, image


def test_a_restore_writes_data_and_zeros_over_what_was_there(device: tuple[str, Path]) -> None:
    path, image = device
    target = open_target(f"block:{path}", HOST, 3 * MIB, create=False, overwrite=True)
    target.write(0, b"\xbb" * MIB)
    target.write_zeros(MIB, 2 * MIB)
    target.finish()
    assert_same(image.read_bytes(), b"\xbb" * MIB + bytes(2 * MIB) + b"\xaa" * MIB)


def test_a_device_that_is_too_small_is_refused_untouched(device: tuple[str, Path]) -> None:
    path, image = device
    with pytest.raises(UsageError, match="the restore needs"):
        open_target(f"block:{path}", HOST, 5 * MIB, create=False, overwrite=True)
    assert_same(image.read_bytes(), b"\xaa" * (4 * MIB))


def test_a_mounted_device_is_refused(device: tuple[str, Path], tmp_path: Path) -> None:
    path, _ = device
    subprocess.run([require_tool("mkfs.ext4", "e2fsprogs"), "-q", "-F", path], check=True)
    mount_point = tmp_path / "mounted"
    mount_point.mkdir()
    subprocess.run(["mount", path, mount_point], check=True)
    try:
        with pytest.raises(DiskInUse):
            open_target(f"block:{path}", HOST, MIB, create=False, overwrite=True)
    finally:
        subprocess.run(["umount", mount_point], check=True)


def test_a_device_outside_the_allowed_directories_is_refused(device: tuple[str, Path], tmp_path: Path) -> None:
    path, _ = device
    with pytest.raises(DiskDenied):
        open_disk(f"block:{path}", host_for(tmp_path))


def test_a_file_is_no_block_device(tmp_path: Path) -> None:
    image = raw_image(tmp_path / "disk")
    with pytest.raises(DiskDenied, match="not a block device"):
        open_disk(f"block:{image}", host_for(tmp_path))


def test_a_device_that_is_just_being_attached_is_waited_for(tmp_path: Path, device: tuple[str, Path]) -> None:
    link, host = tmp_path / "wwn-0x6000c29", host_for(tmp_path)
    host = msgspec.structs.replace(host, disk_paths=(str(tmp_path), "/dev"))
    with pytest.raises(DiskNotFound):
        open_disk(f"block:{link}", host)
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_disk, f"block:{link}?wait=60", host)
        link.symlink_to(device[0])
        with closing(opening.result()) as disk:
            assert disk.size_bytes == 4 * MIB
