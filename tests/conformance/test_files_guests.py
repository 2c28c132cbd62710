"""Disks of whole guests: partitions, logical volumes across disks, and one tree of them as the guest has it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import FilesUnreadable
from holdfast_agent.wire.files import FetchFiles, FindFiles, ListFiles, ListVolumes
from lab import file_trees as trees
from lab.devices import MIB
from lab.logical_volumes import Wanted, make_group
from lab.movers import Site
from lab.tools import require_tool

ROOT_UUID = "0b2f6c1e-9d8a-4b57-8c1f-3a5d7e9f1b2c"
FSTAB = f"""\
# a comment, and a line of something that is not there
UUID={ROOT_UUID} / ext4 defaults 0 1
LABEL=boot /boot ext4 defaults 0 2
/dev/disk/by-uuid/1234-ABCD /boot/efi vfat umask=0077 0 1
/dev/mapper/vg--0-home /home ext4 defaults 0 2
/dev/sdz1 /srv/my\\040data xfs nofail 0 0
tmpfs /tmp tmpfs defaults 0 0
"""


def folder(path: Path, **files: str) -> Path:
    for name, content in files.items():
        place = path / name.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    return path


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, tuple[str, ...]]]:
    """Two disks: the first with EFI, /boot and a physical volume, the second wholly one. The root lies on both."""
    work = tmp_path_factory.mktemp("guest")
    root = folder(work / "root", etc__fstab=FSTAB, etc__hostname="web\n", etc__motd="root", srv__keep="")
    for mount_point in ("boot", "home", "tmp"):
        (root / mount_point).mkdir()
    (root / "big").write_bytes(bytes(range(256)) * (20 * MIB // 256))
    home = folder(work / "home", me__letter="dear", me__plan="build")
    boot = folder(work / "boot", vmlinuz="kernel", efi__hidden="under the mount")
    efi = folder(work / "efi", EFI__BOOT__BOOTX64="program")
    volumes = (
        Wanted("home", trees.make_ext4(work / "home.img", home, size=16 * MIB), stripes=2),
        Wanted("root", trees.make_ext4(work / "root.img", root, "-U", ROOT_UUID, size=48 * MIB)),
    )
    first, second = trees.blank(work / "pv0.img", 40 * MIB), trees.blank(work / "pv1.img", 40 * MIB)
    make_group("vg-0", (first, second), volumes)
    parts = (
        trees.make_fat(work / "efi.img", efi, 12, 2 * MIB),
        trees.make_ext4(work / "boot.img", boot, "-L", "boot", size=8 * MIB),
        first,
    )
    disk = partitioned(work / "sda.img", parts)
    site = Site(work)
    with trees.served(site, {"sda.img": disk, "sdb.img": second}) as disks:
        yield site, disks


def partitioned(image: Path, parts: tuple[Path, ...]) -> Path:
    """A GPT whose first and third entry changed places, as some installers leave it."""
    sizes = [part.stat().st_size // 512 for part in parts]
    starts = [2048]
    for size in sizes:
        starts.append(starts[-1] + size)
    trees.blank(image, (starts[-1] + 2048) * 512)
    order = (14, 1, 2)
    lines = [f"{number}: start={start} size={size}" for number, start, size in zip(order, starts, sizes, strict=False)]
    table = "label: gpt\n" + "\n".join(lines) + "\n"
    command = [require_tool("sfdisk", "fdisk"), "--quiet", image]
    subprocess.run(command, input=table, text=True, check=True, capture_output=True)
    with image.open("r+b") as file:
        for start, part in zip(starts, parts, strict=False):
            file.seek(start * 512)
            file.write(part.read_bytes())
    return image


def test_the_volumes_of_a_guest_are_told_with_their_places(guest: tuple[Site, tuple[str, ...]]) -> None:
    site, disks = guest
    told = {each.name: each for each in trees.look(site, disks, ListVolumes()).volumes}
    assert {name: (each.kind, each.place) for name, each in told.items()} == {
        "sda.img.p14": ("FAT12", "/boot/efi"),
        "sda.img.p1": ("ext4", "/boot"),
        "vg-0-home": ("ext4", "/home"),
        "vg-0-root": ("ext4", "/"),
    }
    assert told["vg-0-root"].uuid == ROOT_UUID
    assert told["sda.img.p1"].label == "boot"


def test_files_are_found_where_the_guest_has_them(guest: tuple[Site, tuple[str, ...]]) -> None:
    """Across mounts; what a mount hides is not there."""
    site, disks = guest
    told = trees.look(site, disks, FindFiles(path=b"/", pattern=b"*"))
    assert told.complaints == ("/srv/my data: the guest mounts /dev/sdz1 here, which is not among what can be read",)
    found = {each.path for each in told.entries}
    assert {b"/etc/hostname", b"/home/me/letter", b"/boot/vmlinuz", b"/boot/efi/EFI/BOOT/BOOTX64"} <= found
    assert b"/boot/efi/hidden" not in found
    hidden = trees.look(site, disks, ListFiles(path=b"/efi"), volume="sda.img.p1").entries
    assert [each.path for each in hidden] == [b"/efi/hidden"]


def test_files_across_disks_and_stripes_are_restored(guest: tuple[Site, tuple[str, ...]]) -> None:
    site, disks = guest
    out = site.folder / "disks" / "out"
    trees.look(site, disks, FetchFiles(paths=(b"/big", b"/home", b"/boot"), target=str(out)))
    assert ((out / "big").read_bytes() == bytes(range(256)) * (20 * MIB // 256)) is True
    assert (out / "home" / "me" / "plan").read_text() == "build"
    assert (out / "boot" / "efi" / "EFI" / "BOOT" / "BOOTX64").read_text() == "program"


def test_a_disk_that_is_not_there_takes_only_its_own_volumes(guest: tuple[Site, tuple[str, ...]]) -> None:
    """Without the second disk neither of the logical volumes is whole; the partitions are, each in its own folder."""
    site, _ = guest
    told = {each.name: each for each in trees.look(site, ("sda.img",), ListVolumes()).volumes}
    assert "not in the restore point" in told["vg-0-root"].note
    assert told["vg-0-root"].place == ""
    assert told["sda.img.p1"].place == "/sda.img.p1"
    entries = trees.look(site, ("sda.img",), ListFiles(path=b"/")).entries
    assert [each.path for each in entries] == [b"/sda.img.p1", b"/sda.img.p14"]
    kernel = trees.look(site, ("sda.img",), ListFiles(path=b"/sda.img.p1/vmlinuz")).entries
    assert kernel[0].size == 6


def test_a_disk_without_files_for_us_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """Not an empty folder, which would look like a guest without files."""
    trees.run_tool(require_tool("mkfs.exfat", "exfatprogs"), trees.blank(tmp_path / "image", 16 * MIB))
    site = Site(tmp_path)
    with trees.served(site, {"stick.img": tmp_path / "image"}) as disks:
        (volume,) = trees.look(site, disks, ListVolumes()).volumes
        for chosen in ("", volume.name):
            with pytest.raises(
                FilesUnreadable, match=r"stick.img \(exFAT\): exFAT cannot be read here: restore its disks"
            ):
                trees.look(site, disks, ListFiles(path=b"/"), volume=chosen)
