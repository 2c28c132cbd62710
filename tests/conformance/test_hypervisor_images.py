"""The hypervisor `images` passes the suite in both formats and with every snapshot method."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from holdfast_agent.model.disk_url import DiskScheme, parse_disk_url
from holdfast_plugins.api import HypervisorDriver, RestoreDisk, VmRef
from holdfast_plugins.hypervisors import images
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions, SnapshotMethod
from holdfast_plugins.testkit import HypervisorConformance, HypervisorLab, ObligationSuite, RestoreSuite, SnapshotSuite
from lab.devices import small_file_system
from lab.tools import require_tool

SIZES = {"root": 3 * 1024 * 1024 + 512, "data": 1024 * 1024}


class ImagesLab(HypervisorLab):
    """A directory with a VM of two disks, a second VM, and files that are nobody's VM."""

    vm = VmRef("web", "web")
    plugin = images
    resizes = True
    plugs_disks = True
    faults = ("the storage is gone", "an image is damaged")

    def __init__(self, directory: Path, scratch: Path, image_format: str, method: SnapshotMethod) -> None:
        self._directory = directory
        self._scratch = scratch
        self._format = image_format
        self._method = method
        self.freezes = method is not SnapshotMethod.IN_PLACE
        (directory / "web").mkdir()
        random = Random(7)
        for name, size in SIZES.items():
            self._create(directory / "web" / f"{name}.{image_format}", size, random.randbytes(100_000))
        (directory / "web" / "notes.txt").write_text("not an image")
        (directory / "other.img").write_bytes(bytes(4096))
        (directory / "README").write_text("not a VM")
        (directory / "documents").mkdir()

    def driver(self) -> HypervisorDriver:
        return ImagesDriver(ImagesOptions(path=str(self._directory), snapshot=self._method), {})

    def unreachable(self) -> HypervisorDriver:
        return ImagesDriver(ImagesOptions(path=str(self._directory / "not-mounted")), {})

    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        path = self._directory / "web" / disk_id
        if self._format == "raw":
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(data)
            return
        # qemu-io writes whole sectors: read, change, write back.
        first, last = offset // 512 * 512, -(-(offset + len(data)) // 512) * 512
        sectors = bytearray(self._read_image(path, "qcow2")[first:last])
        sectors[offset - first : offset - first + len(data)] = data
        (self._scratch / "sectors").write_bytes(sectors)
        command = f"write -s {self._scratch / 'sectors'} {first} {len(sectors)}"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, stdout=subprocess.DEVNULL)

    def read(self, url: str) -> bytes:
        parsed = parse_disk_url(url)
        if parsed.scheme is DiskScheme.FILE:
            return Path(parsed.path).read_bytes()
        return self._read_image(Path(parsed.path), parsed.option("format"))

    def write_restored(self, disk: RestoreDisk, data: bytes) -> None:
        assert disk.create
        with Path(parse_disk_url(disk.url).path).open("xb") as file:
            file.write(data)

    def grow(self, disk_id: str, size_bytes: int) -> None:
        path = self._directory / "web" / disk_id
        if self._format == "raw":
            os.truncate(path, size_bytes)
        else:
            subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", path, str(size_bytes)], check=True)

    def plug(self) -> str:
        name = f"between.{self._format}"
        self._create(self._directory / "web" / name, 1024 * 1024, b"plugged")
        return name

    def unplug(self, disk_id: str) -> None:
        (self._directory / "web" / disk_id).unlink()

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        if name == "the storage is gone":
            place, aside = self._directory, self._directory.with_name("aside")
            place.rename(aside)
        else:
            place = self._directory / "web" / f"data.{self._format}"
            aside = self._scratch / "whole"
            shutil.move(place, aside)
            place.write_bytes(b"QFI\xfb" + bytes(60)) if self._format == "qcow2" else place.symlink_to("nowhere")
        try:
            yield
        finally:
            place.unlink(missing_ok=True) if not place.is_dir() else None
            shutil.move(aside, place)

    def traces(self) -> Hashable:
        keep = {self._directory / ".holdfast", self._directory / ".holdfast" / "HOLDFAST-SNAPSHOTS"}
        return frozenset(str(path) for path in self._directory.rglob("*") if path not in keep)

    def _create(self, path: Path, size: int, data: bytes) -> None:
        raw = path.with_suffix(".raw")
        with raw.open("wb") as file:
            file.write(data)
            file.truncate(size)
        if self._format == "qcow2":
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
            raw.unlink()

    def _read_image(self, path: Path, image_format: str) -> bytes:
        raw = self._scratch / "converted"
        subprocess.run(["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw], check=True)
        return raw.read_bytes()


@pytest.fixture(scope="module")
def reflink_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_file_system(tmp_path_factory.mktemp("reflinks"), kind="xfs") as root:
        yield root


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HypervisorLab]:
    image_format, method = getattr(request, "param", "raw auto").split()
    if image_format == "qcow2":
        require_tool("qemu-img", "qemu-utils")
        require_tool("qemu-io", "qemu-utils")
    root = request.getfixturevalue("reflink_root") if method == "reflink" else tmp_path
    directory = root / tmp_path.name
    directory.mkdir()
    (tmp_path / "scratch").mkdir()
    yield ImagesLab(directory, tmp_path / "scratch", image_format, SnapshotMethod(method))
    shutil.rmtree(directory)  # the file system with reflinks is small, and all tests share it


class TestImages(HypervisorConformance):
    """Raw images, with what method there is."""


@pytest.mark.parametrize("lab", ["raw in-place", "raw reflink", "qcow2 copy", "qcow2 reflink"], indirect=True)
class TestOtherImages(SnapshotSuite, ObligationSuite, RestoreSuite):
    """Whatever else the format and the method may be."""
