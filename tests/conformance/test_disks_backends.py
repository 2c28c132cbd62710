"""The disk backends against the conformance suite, each with a real counterpart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.disks.disk import ReadableDisk
from holdfast_agent.disks.open import open_disk
from lab.certificates import make_certificates
from lab.disk_suite import DiskSuite
from lab.disks import host_for, nbdkit, qemu_nbd, raw_image
from lab.nginx import nginx
from lab.ports import free_port

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


@needs_qemu
@pytest.mark.parametrize("shared", [1, 8])
class TestNbdOfQemu(DiskSuite):
    @pytest.fixture
    def disk(self, tmp_path: Path, shared: int) -> Iterator[ReadableDisk]:
        with qemu_nbd(tmp_path, raw_image(tmp_path / "disk"), "--read-only", f"--shared={shared}") as socket:
            disk = open_disk(f"nbd+unix:{socket}", host_for(tmp_path, timeout_s=1.0))
            yield disk
            disk.close()


@needs_nbdkit
class TestNbdTcp(DiskSuite):
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[ReadableDisk]:
        port = free_port()
        with nbdkit(tmp_path, "--readonly", "file", str(raw_image(tmp_path / "disk")), port=port):
            disk = open_disk(f"nbd://127.0.0.1:{port}", host_for(tmp_path, f"nbd://127.0.0.1:{port}"))
            yield disk
            disk.close()


@needs_nbdkit
class TestNbdTls(DiskSuite):
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[ReadableDisk]:
        made, port = make_certificates(tmp_path / "tls"), free_port()
        served = ("--tls=require", f"--tls-certificates={made.folder}", "file", str(raw_image(tmp_path / "disk")))
        with nbdkit(tmp_path, "--readonly", *served, port=port):
            disk = open_disk(f"nbds://localhost:{port}", host_for(tmp_path, "nbds://localhost", ca=made.ca))
            yield disk
            disk.close()


@needs_nbdkit
@pytest.mark.parametrize(("minimum", "maximum"), [("512", "64K"), ("4K", "32M"), ("4K", "4K")])
class TestNbdWithStrictBlockSizes(DiskSuite):
    """The server refuses what is not a multiple of its minimum, and what is longer than its maximum."""

    @pytest.fixture
    def disk(self, tmp_path: Path, minimum: str, maximum: str) -> Iterator[ReadableDisk]:
        sizes = (f"blocksize-minimum={minimum}", f"blocksize-preferred={minimum}", f"blocksize-maximum={maximum}")
        served = ("--filter=blocksize-policy", "file", str(raw_image(tmp_path / "disk")), *sizes)
        with nbdkit(tmp_path, "--readonly", *served, "blocksize-error-policy=error") as socket:
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


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
class TestWeb(DiskSuite):
    tells_holes = False

    @pytest.fixture
    def disk(self, tmp_path: Path, tls: bool) -> Iterator[ReadableDisk]:
        made = make_certificates(tmp_path / "tls")
        root = tmp_path / "root"
        root.mkdir()
        raw_image(root / "disk")
        with nginx(tmp_path / "nginx", root, made if tls else None) as port:
            origin = f"{'https' if tls else 'http'}://localhost:{port}"
            disk = open_disk(f"{origin}/disk", host_for(tmp_path, origin, ca=made.ca))
            yield disk
            disk.close()
