"""What is left out of a disk, against real file systems: the rest must be a sound one with the same files."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast_agent.filesystems.crc32c import crc32c
from holdfast_agent.model.geometry import Extent
from lab.devices import mounted_apart
from lab.tools import require_tool
from lab.unused_space import OLD_BYTE, files, live_on, look, mark, restored

MIB = 1 << 20
SIZE = 192 * MIB


def make_ext4(image: Path, *options: str, size: int = SIZE, kind: str = "ext4") -> Path:
    """An empty ext4 on a disk full of old data."""
    with image.open("wb") as file:
        for _ in range(size // MIB):
            file.write(bytes([OLD_BYTE]) * MIB)
    program = require_tool("mke2fs", "e2fsprogs")
    subprocess.run([program, "-q", "-F", "-t", kind, "-E", "nodiscard", *options, image], check=True)
    return image


def assert_same_file_system(image: Path, copy: Path, folder: Path) -> None:
    subprocess.run([require_tool("e2fsck", "e2fsprogs"), "-f", "-n", copy], check=True, capture_output=True)
    with mounted_apart(image, folder / "one", "ro") as one, mounted_apart(copy, folder / "other", "ro") as other:
        assert files(one) == files(other)
        assert len(files(one)) > 50


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-b", "4096"),
        ("-b", "4096", "-O", "^64bit"),
        ("-O", "^flex_bg,^resize_inode"),
        ("-O", "sparse_super2,inline_data,large_dir"),
        ("-O", "metadata_csum_seed,^has_journal"),
        ("-E", "nodiscard,lazy_itable_init=0"),
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_free_blocks_of_ext4(tmp_path: Path, options: tuple[str, ...]) -> None:
    image = make_ext4(tmp_path / "disk", *options)
    with mounted_apart(image, tmp_path / "live") as folder:
        live_on(folder)
    found = look(image)
    copy = restored(image, found)
    assert_same_file_system(image, copy, tmp_path)
    (finding,) = found.findings
    assert (finding.kind, finding.doubt) == ("ext4", "")
    assert finding.unused_bytes > SIZE * 0.6


def free_of(image: Path) -> set[int]:
    """The blocks that e2fsprogs calls free."""
    told = subprocess.run([require_tool("dumpe2fs", "e2fsprogs"), image], check=True, capture_output=True, text=True)
    runs = [
        each for line in re.findall(r"^  Free blocks: (.*)$", told.stdout, re.MULTILINE) for each in line.split(", ")
    ]
    ends = [(run.partition("-")[0], run.rpartition("-")[2]) for run in runs if run]
    return {block for first, last in ends for block in range(int(first), int(last) + 1)}


@pytest.mark.parametrize("options", [("-G", "4"), ("-O", "^flex_bg"), ("-O", "sparse_super2")])
def test_metadata_of_groups_that_were_never_used_stays(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Copies of superblock and descriptors, and room for more of them; bitmaps and inodes of other groups."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(1024 * MIB - 5 * 4096)
    make = [require_tool("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", "4096", *options, image]
    subprocess.run(make, check=True)
    found = look(image, 4096).unused
    unused = {block for extent in found for block in range(extent.start // 4096, extent.end // 4096)}
    free = free_of(image)
    assert unused <= free, sorted(unused - free)[:10]
    assert len(unused) > 0.95 * len(free)


def test_a_frozen_file_system_can_be_believed_and_a_mounted_one_cannot(tmp_path: Path) -> None:
    image, snapshot = make_ext4(tmp_path / "disk"), tmp_path / "snapshot"
    with mounted_apart(image, tmp_path / "live") as folder:
        live_on(folder)
        subprocess.run(["sync", "-f", folder], check=True)
        shutil.copyfile(image, snapshot)
        (finding,) = look(snapshot).findings
        assert (finding.unused_bytes, "not frozen" in finding.doubt) == (0, True)
        subprocess.run(["fsfreeze", "--freeze", folder], check=True)
        try:
            shutil.copyfile(image, snapshot)
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", folder], check=True)
    found = look(snapshot)
    assert found.findings[0].unused_bytes > SIZE * 0.6
    assert_same_file_system(snapshot, restored(snapshot, found), tmp_path)


@pytest.mark.parametrize(
    ("options", "doubt"),
    [
        (("-O", "^metadata_csum"), "no checksums"),
        (("-O", "bigalloc"), "unknown features"),
        (("-O", "meta_bg,^resize_inode"), "unknown features"),
        (("-b", "4096", "-g", "8192"), "not possible"),
    ],
)
def test_forms_of_ext4_that_are_not_known_are_kept_whole(tmp_path: Path, options: tuple[str, ...], doubt: str) -> None:
    found = look(make_ext4(tmp_path / "disk", *options, size=32 * MIB))
    assert found.unused == []
    assert doubt in found.findings[0].doubt


def put_in_superblock(image: Path, offset: int, form: str, *values: int) -> None:
    """With a checksum that is right again."""
    with image.open("r+b") as file:
        file.seek(1024)
        raw = bytearray(file.read(1024))
        struct.pack_into(form, raw, offset, *values)
        struct.pack_into("<I", raw, 0x3FC, crc32c(bytes(raw[:0x3FC])))
        file.seek(1024)
        file.write(raw)


# Bits of the three words of features that leave it where free blocks are told, as the kernel's documentation has them.
HARMLESS = {0x5C: 0x1E3F, 0x60: 0x3E7C2, 0x64: 0xB56B}
DIRTY = {0x60: 0x4, 0x64: 0x10000}
"""A journal that is to be replayed, and orphans to be cleared, which have a reason of their own."""


def test_each_feature_of_ext4_that_is_not_known_keeps_the_whole_volume(tmp_path: Path) -> None:
    image = make_ext4(tmp_path / "disk", "-b", "4096", size=16 * MIB)
    raw = image.read_bytes()[1024:2048]
    assert look(image).unused
    for word, harmless in HARMLESS.items():
        (told,) = struct.unpack_from("<I", raw, word)
        assert not told & ~harmless, "mke2fs has something new"
        for bit in (1 << place for place in range(32) if not harmless >> place & 1):
            put_in_superblock(image, word, "<I", told | bit)
            (finding,) = look(image).findings
            assert finding.unused_bytes == 0, f"the checker is broken: {word:#x} {bit:#x}"
            assert ("journal" if DIRTY.get(word) == bit else "unknown features") in finding.doubt
        put_in_superblock(image, word, "<I", told)
    assert look(image).unused


@pytest.mark.parametrize(
    ("offset", "form", "value", "doubt"),
    [
        (0x3A, "<H", 0, "not unmounted cleanly"),
        (0x3A, "<H", 3, "has errors"),
        (0x3A, "<H", 5, "not unmounted cleanly"),
        (0x4C, "<I", 0, "unknown revision"),
        (0x4C, "<I", 2, "unknown revision"),
        (0x175, "<B", 2, "no checksums"),
        (0x4, "<I", 1 << 31, "not possible"),
    ],
)
def test_a_superblock_of_ext4_that_says_something_else(
    tmp_path: Path, offset: int, form: str, value: int, doubt: str
) -> None:
    image = make_ext4(tmp_path / "disk", "-b", "4096", size=16 * MIB)
    put_in_superblock(image, offset, form, value)
    (finding,) = look(image).findings
    assert doubt in finding.doubt
    assert finding.unused_bytes == 0


def test_ext2_and_ext3_are_kept_whole(tmp_path: Path) -> None:
    for kind in ("ext2", "ext3"):
        image = make_ext4(tmp_path / kind, size=32 * MIB, kind=kind)
        assert look(image).unused == []


def _spots(image: Path) -> Iterator[int]:
    """Offsets of bytes that decide what is left out: in the superblock, a descriptor, and two bitmaps."""
    raw = image.read_bytes()
    yield from (1024 + 0x4, 1024 + 0x18, 1024 + 0x20, 1024 + 0x60, 1024 + 0x3FC)
    for group in (0, 1):
        descriptor = 4096 + 64 * group
        yield from (descriptor, descriptor + 0x12, descriptor + 0x1E)
        (bitmap,) = struct.unpack_from("<I", raw, descriptor)
        yield from (bitmap * 4096, bitmap * 4096 + 4095)


def test_a_flipped_bit_anywhere_on_the_way_keeps_the_whole_volume(tmp_path: Path) -> None:
    image = make_ext4(tmp_path / "disk", "-b", "4096", "-O", "^uninit_bg")
    whole = image.read_bytes()
    assert look(image).unused != []
    for spot in _spots(image):
        for bit in (0, 7):
            with image.open("r+b") as file:
                file.seek(spot)
                file.write(bytes([whole[spot] ^ 1 << bit]))
            assert look(image).unused == [], f"the checker is broken at {spot}"
            with image.open("r+b") as file:
                file.seek(spot)
                file.write(whole[spot : spot + 1])
    assert look(image).unused != []


@pytest.mark.parametrize(
    "damage",
    [
        mark(0, b"XFSB"),
        mark(512, b"LABELONE"),
        mark(4086, b"SWAPSPACE2"),
        mark(-65536, b"\xfc\x4e\x2b\xa9"),
        mark(-8192, b"\xfc\x4e\x2b\xa9"),
        lambda image: os.truncate(image, 16 * MIB),
    ],
    ids=["xfs", "lvm", "swap", "raid-0.90", "raid-1.0", "cut"],
)
def test_a_volume_that_may_be_something_else_is_kept_whole(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    image = make_ext4(tmp_path / "disk", "-b", "4096", size=32 * MIB)
    assert look(image).unused
    damage(image)
    found = look(image)
    assert found.unused == []
    assert found.findings[0].doubt


def make_swap(image: Path, size: int = 8 * MIB) -> Path:
    image.write_bytes(bytes([OLD_BYTE]) * size)
    image.chmod(0o600)
    subprocess.run([require_tool("mkswap", "util-linux"), "-q", image], check=True)
    return image


# Offsets and magics of what leaves the first sectors of a volume alone, as libblkid knows them.
LEFT_BENEATH = {
    "LUKS": (0, b"LUKS\xba\xbe"),
    "LVM": (512, b"LABELONE"),
    "Stratis": (516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    "a BSD disk label": (512, b"\x57\x45\x56\x82"),
    "bcache": (4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    "RAID": (4096, b"\xfc\x4e\x2b\xa9"),
    "OCFS2": (8192, b"OCFSV2"),
    "JFS": (32768, b"JFS1"),
    "ReiserFS": (65588, b"ReIsEr2Fs"),
    "GFS2": (65536, b"\x01\x16\x19\x70"),
    "Btrfs": (65600, b"_BHRfS_M"),
    "UFS": (66908, b"\x19\x01\x54\x19"),
    "ZFS": (131072 + 5 * 4096, b"\x0c\xb1\xba\x00" + bytes(4)),
    "ZFS of the other kind": (2 * 262144 - 1024, bytes(4) + b"\x00\xba\xb1\x0c"),
    "VMFS": (1 << 20, b"\x0d\xd0\x01\xc0"),
}


@pytest.mark.parametrize("kind", LEFT_BENEATH)
def test_swap_beneath_something_else_is_kept_whole(tmp_path: Path, kind: str) -> None:
    image = make_swap(tmp_path / "swap")
    assert look(image).unused
    mark(*LEFT_BENEATH[kind])(image)
    (finding,) = look(image).findings
    assert finding.unused_bytes == 0
    assert f"the marks of swap, {kind.partition(' of')[0]} at once" in finding.doubt


def _partition(image: Path, table: str) -> None:
    """With whatever is there left as it is."""
    command = [require_tool("sfdisk", "fdisk"), "-q", "--wipe=never", "--wipe-partitions=never", image]
    subprocess.run(command, input=table, text=True, check=True)


def _inside(disk: Path, *parts: tuple[int, Path]) -> None:
    with disk.open("r+b") as file:
        for place, image in parts:
            file.seek(place)
            file.write(image.read_bytes())


def test_the_disk_of_a_guest_in_the_guest_is_kept_whole(tmp_path: Path) -> None:
    """A partition that was ext4 once, and has been given to a guest that made partitions of its own."""
    inner, disk = make_ext4(tmp_path / "inner", "-b", "4096", size=32 * MIB), tmp_path / "disk"
    disk.write_bytes(bytes(34 * MIB))
    _partition(disk, "label: gpt\nstart=2048, size=65536, type=L")
    _inside(disk, (MIB, inner))
    assert look(disk).unused
    _partition(inner, "label: dos\nstart=2048, type=L")
    _inside(disk, (MIB, inner))
    (finding,) = look(disk).findings
    assert (finding.extent.start, finding.unused_bytes) == (MIB, 0)
    assert "ext4, a partition table at once" in finding.doubt


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (mark(4096, b"\xfc\x4e\x2b\xa9"), "RAID"),
        (mark(-8192, b"\xfc\x4e\x2b\xa9"), "RAID"),
        (mark(512, b"LABELONE"), "LVM"),
        (mark(4086, b"SWAPSPACE2"), "swap"),
    ],
)
def test_partitions_of_a_disk_that_is_used_as_a_whole_now_are_not_believed(
    tmp_path: Path, damage: Callable[[Path], object], kind: str
) -> None:
    """The old table is in the first sector still, and what it names may lie where an array keeps nothing."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(34 * MIB))
    _partition(disk, "label: dos\nstart=2048, size=65536, type=L")
    _inside(disk, (MIB, make_ext4(tmp_path / "system", "-b", "4096", size=32 * MIB)))
    assert look(disk).unused
    damage(disk)
    found = look(disk)
    assert found.unused == []
    assert found.findings[0].doubt == f"it has the marks of {kind} beside a partition table"


def test_the_content_of_swap_is_left_out_and_its_header_stays(tmp_path: Path) -> None:
    image = make_swap(tmp_path / "swap")
    assert look(image, 4096).unused == [Extent(4096, 8 * MIB - 4096)]
    assert look(image, MIB).unused == [Extent(MIB, 7 * MIB)]
    before = subprocess.run(["swaplabel", image], check=True, capture_output=True).stdout
    restored_image = restored(image, look(image, 4096))
    assert subprocess.run(["swaplabel", restored_image], check=True, capture_output=True).stdout == before


def test_a_hibernated_system_is_kept(tmp_path: Path) -> None:
    image = make_swap(tmp_path / "swap")
    mark(4086, b"S1SUSPEND\0")(image)
    assert look(image).unused == []


def test_swap_that_claims_more_than_there_is_is_kept(tmp_path: Path) -> None:
    image = make_swap(tmp_path / "swap")
    with image.open("r+b") as file:
        file.truncate(4 * MIB)
    assert look(image).findings[0].doubt == "its header is not sound"


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_partitions(tmp_path: Path, label: str) -> None:
    """ext4, swap and something unknown; with MBR two of them are logical partitions."""
    system, swap = make_ext4(tmp_path / "system", size=64 * MIB), make_swap(tmp_path / "swap")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(100 * MIB)
    table = [f"label: {label}", "start=2048, size=131072, type=L"]
    if label == "dos":
        table.append("start=133120, type=E")
    table += ["start=135168, size=16384, type=S", "start=153600, size=2048, type=L"]
    subprocess.run([require_tool("sfdisk", "fdisk"), "-q", disk], input="\n".join(table), text=True, check=True)
    with disk.open("r+b") as file:
        for image, place in ((system, MIB), (swap, 66 * MIB)):
            file.seek(place)
            file.write(image.read_bytes())
    found = look(disk)
    assert [(finding.extent.start, finding.kind) for finding in found.findings] == [
        (MIB, "ext4"),
        (66 * MIB, "swap"),
        (75 * MIB, "unknown"),
    ]
    alone = [Extent(extent.start + MIB, extent.length) for extent in look(system).unused]
    assert [extent for extent in found.unused if extent.end <= 65 * MIB] == alone
    assert found.unused[-1] == Extent(66 * MIB + 65536, 8 * MIB - 65536)
    assert all(before.end < after.start for before, after in pairwise(found.unused))


def _mbr(disk: Path, entries: dict[int, list[tuple[int, int, int]]]) -> None:
    """Tables of (type, first sector, sectors) at these sectors of a disk of 8 MiB."""
    raw = bytearray(8 * MIB)
    for sector, table in entries.items():
        for place, (kind, first, count) in enumerate(table):
            struct.pack_into("<B3xB3xII", raw, sector * 512 + 446 + 16 * place, 0, kind, first, count)
        raw[sector * 512 + 510 : sector * 512 + 512] = b"\x55\xaa"
    disk.write_bytes(raw)


@pytest.mark.parametrize(
    ("tables", "doubt"),
    [
        ({0: [(0x83, 2048, 4096), (0x83, 6000, 4096)]}, "overlap"),
        ({0: [(0x83, 2048, 4096), (0x83, 6144, 99_999)]}, "does not lie on the disk"),
        ({0: [(0x0F, 2048, 9000)], 2048: [(0x83, 8, 8), (5, 100, 9)], 2148: [(0x83, 8, 8), (5, 0, 9)]}, "in a circle"),
        ({0: [(0x0F, 2048, 9000)]}, "no signature"),
        ({0: [(0xEE, 1, 9000)]}, "GPT is missing"),
    ],
)
def test_a_partition_table_that_cannot_be_keeps_the_whole_disk(
    tmp_path: Path, tables: dict[int, list[tuple[int, int, int]]], doubt: str
) -> None:
    _mbr(tmp_path / "disk", tables)
    (finding,) = look(tmp_path / "disk").findings
    assert doubt in finding.doubt


def test_a_damaged_gpt_keeps_the_whole_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(
        [require_tool("sfdisk", "fdisk"), "-q", disk], input="label: gpt\nstart=2048\n", text=True, check=True
    )
    for spot in (512 + 16, 512 + 72, 1024 + 32):
        raw = disk.read_bytes()
        mark(spot, bytes([raw[spot] ^ 1]))(disk)
        (finding,) = look(disk).findings
        assert "GPT" in finding.doubt
        disk.write_bytes(raw)
    assert [finding.kind for finding in look(disk).findings] == ["unknown"]
    mark(510, bytes(2))(disk)
    assert "without the MBR" in look(disk).findings[0].doubt
