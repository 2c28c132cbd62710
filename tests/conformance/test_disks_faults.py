"""Disks that fail while they are read, and images that reach for what is not theirs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import DiskDenied, DiskImageBroken, DiskNotFound, DiskShrunk, DiskUnreadable
from lab.disks import host_for, nbdkit, raw_image

needs_qemu = pytest.mark.usefixtures("qemu_nbd")
needs_nbdkit = pytest.mark.usefixtures("nbdkit_program")


def test_a_file_that_shrinks_is_noticed_by_reads_and_by_the_walk_over_its_extents(tmp_path: Path) -> None:
    path = raw_image(tmp_path / "disk")
    disk = open_disk(f"file:{path}", host_for(tmp_path))
    os.truncate(path, 1 << 20)
    with pytest.raises(DiskShrunk) as caught:
        disk.read_into(1 << 19, memoryview(bytearray(1 << 20)))
    assert caught.value.fields["found_bytes"] == 1 << 20
    with pytest.raises(DiskShrunk):
        list(disk.extents())
    disk.close()


@needs_nbdkit
def test_an_io_error_names_its_place_and_later_reads_go_on(tmp_path: Path) -> None:
    switch = tmp_path / "fail"
    image = str(raw_image(tmp_path / "disk"))
    options = ("--filter=error", "file", image, "error-pread=EIO", "error-pread-rate=100%", f"error-file={switch}")
    with nbdkit(tmp_path, "--readonly", *options) as socket:
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
        switch.touch()
        with pytest.raises(DiskUnreadable) as caught:
            disk.read_into(3 << 20, memoryview(bytearray(4096)))
        assert caught.value.fields["offset_bytes"] == 3 << 20
        assert caught.value.retryable
        switch.unlink()
        disk.read_into(3 << 20, memoryview(bytearray(4096)))
        disk.close()


@needs_nbdkit
def test_a_server_that_goes_away_is_an_unreadable_disk(tmp_path: Path) -> None:
    with nbdkit(tmp_path, "--readonly", "file", str(raw_image(tmp_path / "disk"))) as socket:
        disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
    with pytest.raises(DiskUnreadable):
        disk.read_into(0, memoryview(bytearray(4096)))
    disk.close()


@needs_qemu
def test_an_image_may_not_name_files_outside_of_the_allowed_directories(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    outside = raw_image(tmp_path / "outside")
    image = allowed / "image"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(outside), str(image)]
    subprocess.run(create, check=True)
    with pytest.raises(DiskDenied, match="outside"):
        open_disk(f"image:{image}?format=qcow2", host_for(allowed))
    assert [path.name for path in allowed.iterdir()] == ["image"]


@needs_qemu
def test_a_damaged_image_says_why_and_leaves_no_server(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"this is no qcow2" * 512)
    with pytest.raises(DiskImageBroken, match="not in qcow2 format") as caught:
        open_disk(f"image:{tmp_path}/image?format=qcow2", host_for(tmp_path))
    assert not caught.value.retryable  # it would say the same each time
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


@needs_nbdkit
def test_an_unknown_export_is_not_found(tmp_path: Path) -> None:
    options = ("--filter=exportname", "memory", "1M", "exportname-strict=true", "exportname=disk")
    with nbdkit(tmp_path, *options) as socket, pytest.raises(DiskNotFound):
        open_disk(f"nbd+unix:{socket}?export=other", host_for(tmp_path))
