"""What the hypervisor `images` sees in a directory, with images that QEMU made."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import ConfigInvalid, DiskUnsupported, HypervisorUnreachable, PlatformError, VmNotFound
from holdfast_agent.model import strict
from holdfast_plugins.api import DiskInfo, SnapshotRequest, VmRef
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions, SnapshotMethod
from holdfast_plugins.testkit import MemoryJournal
from lab.tools import require_tool

BOOT_SECTOR = bytes(510) + b"\x55\xaa"
EXT4_START = bytes(1080) + b"\x53\xef" + bytes(2 * 512 - 58)


def driver(path: Path, **options: object) -> ImagesDriver:
    return ImagesDriver(ImagesOptions(path=str(path), **options), {})


def names(path: Path) -> set[str]:
    return {vm.name for vm in driver(path).list_vms()}


def qemu_img(*arguments: object) -> None:
    require_tool("qemu-img", "qemu-utils")
    subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("a.raw", b"", True),
        ("a.img", b"anything", True),
        ("disk", BOOT_SECTOR, True),
        ("disk.bin", EXT4_START, True),
        ("disk", BOOT_SECTOR + b"odd", False),
        ("disk", bytes(1024), False),
        ("disk", b"XFSB" + bytes(508), True),
        ("disk", bytes(536) + b"LVM2 001" + bytes(480), True),
        ("disk", bytes((64 << 10) + 64) + b"_BHRfS_M" + bytes(440), True),
        ("a.qcow2", bytes(1024), True),
        ("photo.jpg", b"\xff\xd8\xff", False),
        ("a.vmdk", b"KDMV" + BOOT_SECTOR[4:], False),
        (".a.raw", b"", False),
        ("a.raw.part", b"", False),
        ("a.img~", b"", False),
    ],
)
def test_files_that_are_images(tmp_path: Path, name: str, content: bytes, seen: bool) -> None:
    (tmp_path / name).write_bytes(content)
    assert names(tmp_path) == ({name} if seen else set())


def test_folders_links_and_the_snapshots_directory(tmp_path: Path) -> None:
    for folder in ("vm", "empty", ".hidden", "frozen", "documents", "lost+found"):
        (tmp_path / folder).mkdir()
    for image in ("vm/a.raw", ".hidden/a.raw", "frozen/a.raw", "lost+found/a.raw"):
        (tmp_path / image).write_bytes(b"x")
    (tmp_path / "documents" / "letter.txt").write_text("Dear all")
    (tmp_path / "linked.raw").symlink_to(tmp_path / "vm" / "a.raw")
    (tmp_path / "linked").symlink_to(tmp_path / "vm")
    found = driver(tmp_path, snapshot_dir=str(tmp_path / "frozen")).list_vms()
    assert [vm.name for vm in found] == ["vm"]


def test_what_may_be_a_disk_of_a_vm_and_is_none_is_told(tmp_path: Path) -> None:
    """A point without it looks whole to whoever does not know what an image is to Holdfast."""
    vm = tmp_path / "vm"
    (vm / "more").mkdir(parents=True)
    for image in ("root.raw", "more/inner.raw", "../elsewhere.raw"):
        (vm / image).write_bytes(b"x")
    (vm / "linked.raw").symlink_to(tmp_path / "elsewhere.raw")
    (vm / "notes").symlink_to(tmp_path)
    (vm / "foreign.vmdk").write_bytes(b"KDMV")
    (vm / "unnamed").write_bytes(bytes(1 << 20))
    for harmless in ("boot.iso", "vm.log", "unnamed.part"):
        (vm / harmless).write_bytes(bytes(1 << 20))
    told = driver(tmp_path).vm_info(VmRef("vm", "vm")).left_out
    assert [each.partition(" ")[0] for each in told] == ["foreign.vmdk", "linked.raw", "more", "unnamed"]
    assert driver(tmp_path).vm_info(VmRef("elsewhere.raw", "elsewhere.raw")).left_out == ()


def test_a_qcow2_image_whose_header_was_lost_fails_its_vm(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "root.raw").write_bytes(b"x")
    (tmp_path / "vm" / "data.qcow2").write_bytes(bytes(1 << 20))
    with pytest.raises(DiskUnsupported, match=r"data\.qcow2.*header"):
        driver(tmp_path).vm_info(VmRef("vm", "vm"))


def test_a_vm_is_described_so_that_it_can_be_made_anew(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "root.raw").write_bytes(bytes(1000))
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "vm" / "data.qcow2", "10M")
    info = driver(tmp_path).vm_info(VmRef("vm", "vm"))
    assert info.disks == (DiskInfo("data.qcow2", "data.qcow2", 10 << 20), DiskInfo("root.raw", "root.raw", 1000))
    assert not info.running
    config = msgspec.json.decode(info.config)
    assert config["files"][0] == {"name": "data.qcow2", "format": "qcow2", "size_bytes": 10 << 20}
    assert config["single"] is False


def test_a_qcow2_called_img_is_read_as_qcow2_but_one_called_raw_never(tmp_path: Path) -> None:
    """The first bytes of a raw disk are the guest's to write; the name ``.raw`` is the owner's."""
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "a.img", "1M")
    (tmp_path / "b.raw").write_bytes((tmp_path / "a.img").read_bytes())
    assert driver(tmp_path).vm_info(VmRef("a.img", "a.img")).disks[0].size_bytes == 1 << 20
    size = (tmp_path / "b.raw").stat().st_size
    assert driver(tmp_path).vm_info(VmRef("b.raw", "b.raw")).disks[0].size_bytes == size


def test_an_overlay_is_refused_with_what_to_do(tmp_path: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "base.qcow2", "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", tmp_path / "base.qcow2", "-F", "qcow2", tmp_path / "top.qcow2")
    with pytest.raises(DiskUnsupported, match=r"overlay .* backing file.*qemu-img rebase") as caught:
        driver(tmp_path).vm_info(VmRef("top.qcow2", "top.qcow2"))
    assert not caught.value.retryable
    assert names(tmp_path) == {"base.qcow2", "top.qcow2"}


def test_an_image_with_its_data_elsewhere_is_refused(tmp_path: Path) -> None:
    options = f"data_file={tmp_path}/elsewhere.raw,data_file_raw=on"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, tmp_path / "a.qcow2", "1M")
    with pytest.raises(DiskUnsupported, match="data is in another file"):
        driver(tmp_path).vm_info(VmRef("a.qcow2", "a.qcow2"))


@pytest.mark.parametrize(
    ("offset", "patch", "reason"),
    [
        (4, struct.pack(">I", 1), "qcow version 1"),
        (20, struct.pack(">I", 63), "makes no sense"),
        (24, struct.pack(">Q", 1 << 63), "makes no sense"),
        (32, struct.pack(">I", 2), "encrypted by QEMU"),
        (72, struct.pack(">Q", 2), "marked corrupt"),
        (72, struct.pack(">Q", 1 << 40), "unknown features"),
    ],
)
def test_damaged_and_strange_headers_are_refused(tmp_path: Path, offset: int, patch: bytes, reason: str) -> None:
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(patch)
    with pytest.raises(DiskUnsupported, match=reason):
        driver(tmp_path).vm_info(VmRef("a.qcow2", "a.qcow2"))


def test_a_header_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.qcow2").write_bytes(b"QFI\xfb\0\0\0\3")
    with pytest.raises(DiskUnsupported, match="cut off"):
        driver(tmp_path).vm_info(VmRef("a.qcow2", "a.qcow2"))


@pytest.mark.parametrize("vm_id", ["../vm", "/etc", ".", "..", ".holdfast", "", "a/b", "a\0b", "missing"])
def test_ids_that_lead_elsewhere_are_no_vms(tmp_path: Path, vm_id: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "a.raw").write_bytes(b"x")
    with pytest.raises(VmNotFound):
        driver(tmp_path / "inside").vm_info(VmRef(vm_id, vm_id))


def test_a_directory_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    absent = driver(tmp_path / "absent")
    with pytest.raises(HypervisorUnreachable, match="No such file") as caught:
        absent.connect()
    assert caught.value.retryable
    with pytest.raises(HypervisorUnreachable):
        absent.list_vms()
    with pytest.raises(PlatformError):
        absent.create_snapshot(SnapshotRequest(VmRef("a", "a"), "t", ("a",)), MemoryJournal())


@pytest.mark.parametrize("options", [{"path": "relative"}, {"path": "/a/../b"}, {"path": "/a", "snapshot_dir": "b"}])
def test_paths_must_be_absolute(options: dict[str, str]) -> None:
    with pytest.raises(ConfigInvalid, match="absolute path"):
        strict.convert(options, ImagesOptions, "test")


def test_an_image_that_qemu_writes_to_is_told_and_not_read_in_place(tmp_path: Path) -> None:
    qemu_io = require_tool("qemu-io", "qemu-utils")
    image = tmp_path / "a.raw"
    image.write_bytes(bytes(1 << 20))
    vm = VmRef("a.raw", "a.raw")
    request = SnapshotRequest(vm, "t", ("a.raw",))
    in_place = driver(tmp_path, snapshot=SnapshotMethod.IN_PLACE)
    for mode, written in ((["-r"], False), ([], True)):
        command = [qemu_io, *mode, "-f", "raw", str(image)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
            assert qemu.stdin is not None
            assert qemu.stdout is not None
            qemu.stdin.write(b"read 0 512\n")
            qemu.stdin.flush()
            assert b"read 512/512" in read_until(qemu.stdout.fileno(), b"read 512/512")
            assert in_place.vm_info(vm).running is written
            if written:
                with pytest.raises(PlatformError, match=r"open for writing in another process.*stop the VM"):
                    in_place.create_snapshot(request, MemoryJournal())
            else:
                in_place.create_snapshot(request, MemoryJournal())
    assert not in_place.vm_info(vm).running


def read_until(descriptor: int, word: bytes) -> bytes:
    text = b""
    while word not in text:
        data = os.read(descriptor, 4096)
        assert data, text
        text += data
    return text
