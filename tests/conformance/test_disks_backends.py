"""The disk backends against the conformance suite, each with a real counterpart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.disks.open import open_disk
from lab.disk_suite import DiskSuite
from lab.disks import host_for, nbdkit, raw_image

needs_qemu = pytest.mark.usefixtures("qemu_nbd")
needs_nbdkit = pytest.mark.usefixtures("nbdkit_program")


class TestRawFile(DiskSuite):
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[ReadableDisk]:
        disk = open_disk(f"file:{raw_image(tmp_path / 'disk')}", host_for(tmp_path))
        yield disk
        disk.close()


@needs_qemu
@pytest.mark.parametrize("image_format", ["qcow2", "vmdk"])
class TestImage(DiskSuite):
    @pytest.fixture
    def disk(self, tmp_path: Path, image_format: str) -> Iterator[ReadableDisk]:
        raw, image = raw_image(tmp_path / "disk"), tmp_path / "image"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", image_format, raw, image], check=True)
        disk = open_disk(f"image:{image}?format={image_format}", host_for(tmp_path))
        yield disk
        disk.close()


@needs_nbdkit
@pytest.mark.parametrize("mode", ["auto", "disable"], ids=["many-connections", "one-connection"])
class TestNbdUnix(DiskSuite):
    @pytest.fixture
    def disk(self, tmp_path: Path, mode: str) -> Iterator[ReadableDisk]:
        served = ("--filter=multi-conn", "file", str(raw_image(tmp_path / "disk")), f"multi-conn-mode={mode}")
        with nbdkit(tmp_path, "--readonly", *served) as socket:
            disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
            yield disk
            disk.close()


@needs_nbdkit
class TestNbdWithoutAllocation(DiskSuite):
    tells_holes = False

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[ReadableDisk]:
        image = str(raw_image(tmp_path / "disk"))
        with nbdkit(tmp_path, "--readonly", "--filter=noextents", "file", image) as socket:
            disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path))
            yield disk
            disk.close()
