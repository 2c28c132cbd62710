"""The restore targets against the conformance suite, each with a real counterpart."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_target
from holdfast_agent.errors import DiskExists
from holdfast_agent.model.disk_access import DiskAccess
from lab.certificates import make_certificates
from lab.devices import loop_device
from lab.disk_suite import SIZE, Restored, RewritableSuite, WritableSuite
from lab.disks import host_for, nbdkit, qemu_nbd
from lab.nginx import nginx
from lab.tools import require_tool


def used_disk(path: Path) -> bytes:
    """A file full of old data at ``path``, and what is in it."""
    path.write_bytes(random.Random(9).randbytes(SIZE))
    return path.read_bytes()


class TestNewFile(WritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path) -> Restored:
        target = open_target(f"file:{tmp_path}/new", host_for(tmp_path), SIZE, create=True, overwrite=False)
        return Restored(target, (tmp_path / "new").read_bytes, bytes(SIZE))


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
class TestNewImage(WritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path, image_format: str) -> Restored:
        require_tool("qemu-nbd", "qemu-utils")
        url = f"image:{tmp_path}/new?format={image_format}"
        target = open_target(url, host_for(tmp_path), SIZE, create=True, overwrite=False)

        def content() -> bytes:
            raw = tmp_path / "raw"
            command = ["qemu-img", "convert", "-f", image_format, "-O", "raw", tmp_path / "new", raw]
            subprocess.run(command, check=True)
            assert b".partial" not in (tmp_path / "new").read_bytes()[: 64 << 10]
            return raw.read_bytes()

        return Restored(target, content, bytes(SIZE))


def test_a_new_image_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """Nothing is replaced unasked; what a killed restore left, whose lock is free, goes with the next one."""
    require_tool("qemu-nbd", "qemu-utils")
    url, host = f"image:{tmp_path}/new?format=qcow2", host_for(tmp_path)
    (tmp_path / ".new.0123456789ab.partial").write_bytes(b"left")
    target = open_target(url, host, SIZE, create=True, overwrite=False)
    (partial,) = tmp_path.iterdir()
    assert partial.name.endswith(".partial")
    other = open_target(url, host, SIZE, create=True, overwrite=False)
    assert len(list(tmp_path.iterdir())) == 2, "one that is at work is no leftover"
    target.finish()
    with pytest.raises(DiskExists):
        other.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(DiskExists):
        open_target(url, host, SIZE, create=True, overwrite=False)
    again = open_target(url, host, SIZE, create=True, overwrite=True)
    again.write(0, b"x" * 512)
    again.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    replaced = open_target(url, host, SIZE, create=True, overwrite=True)
    replaced.write(0, b"y" * 512)
    replaced.finish()
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -P 0x79 0 512", tmp_path / "new"], check=True)


class TestExistingFile(RewritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path) -> Restored:
        before = used_disk(tmp_path / "disk")
        target = open_target(f"file:{tmp_path}/disk", host_for(tmp_path), SIZE, create=False, overwrite=True)
        return Restored(target, (tmp_path / "disk").read_bytes, before)


class TestBlockDevice(RewritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path) -> Iterator[Restored]:
        before = used_disk(tmp_path / "disk")
        with loop_device(tmp_path / "disk") as device:
            target = open_target(f"block:{device}", host_for(Path("/dev")), SIZE, create=False, overwrite=True)
            yield Restored(target, Path(device).read_bytes, before)
            target.abort()


class TestWeb(WritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path) -> Iterator[Restored]:
        used_disk(tmp_path / "disk")
        made = make_certificates(tmp_path / "tls")
        with nginx(tmp_path / "nginx", tmp_path, made, "dav_methods PUT; client_max_body_size 0;") as port:
            origin = f"https://localhost:{port}"
            host, pinned = host_for(tmp_path, origin), DiskAccess(origin=origin, certificate_sha256=made.fingerprint)
            url = f"{origin}/disk"
            target = open_target(url, host, SIZE, create=False, overwrite=True, granted=[pinned])
            yield Restored(target, (tmp_path / "disk").read_bytes, bytes(SIZE))
            target.abort()


_STRICT = ("blocksize-minimum=4K", "blocksize-preferred=4K", "blocksize-maximum=64K", "blocksize-error-policy=error")


@pytest.mark.usefixtures("nbdkit_program")
@pytest.mark.parametrize(
    "options",
    [
        ("file",),
        ("--filter=nozero", "file"),
        ("--filter=fua", "file", "fuamode=force"),
        ("--filter=blocksize-policy", "file", *_STRICT),
        ("--filter=multi-conn", "file", "multi-conn-mode=disable"),
    ],
    ids=["as-it-is", "no-zeroes", "fua", "strict-blocks", "one-connection"],
)
class TestNbd(RewritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path, options: tuple[str, ...]) -> Iterator[Restored]:
        before = used_disk(tmp_path / "disk")
        with nbdkit(tmp_path, *options, f"file={tmp_path}/disk") as socket:
            target = open_target(f"nbd+unix:{socket}", host_for(tmp_path), SIZE, create=False, overwrite=True)
            yield Restored(target, (tmp_path / "disk").read_bytes, before)
            target.abort()


@pytest.mark.usefixtures("qemu_nbd")
@pytest.mark.parametrize("shared", [1, 4])
class TestNbdOfQemu(RewritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path, shared: int) -> Iterator[Restored]:
        before = used_disk(tmp_path / "disk")
        with qemu_nbd(tmp_path, tmp_path / "disk", f"--shared={shared}") as socket:
            target = open_target(f"nbd+unix:{socket}", host_for(tmp_path), SIZE, create=False, overwrite=True)
            yield Restored(target, (tmp_path / "disk").read_bytes, before)
            target.abort()


@pytest.mark.usefixtures("qemu_nbd")
@pytest.mark.parametrize("form", ["raw", "qcow2"])
class TestImage(RewritableSuite):
    @pytest.fixture
    def restored(self, tmp_path: Path, form: str) -> Restored:
        before, image = used_disk(tmp_path / "disk"), tmp_path / "image"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, tmp_path / "disk", image], check=True)

        def found() -> bytes:
            subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", image, tmp_path / "found"], check=True)
            return (tmp_path / "found").read_bytes()

        url = f"image:{image}?format={form}"
        return Restored(open_target(url, host_for(tmp_path), SIZE, create=False, overwrite=False), found, before)
