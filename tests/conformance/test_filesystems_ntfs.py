"""What is left out of an NTFS: nothing that a file record points to, and nothing where Windows is not done with it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.filesystems import ntfs
from holdfast_agent.filesystems.ntfs_records import places, the_one
from holdfast_agent.filesystems.reading import Volume
from holdfast_agent.model.geometry import Extent
from lab.devices import MIB, mounted_apart
from lab.disks import host_for
from lab.tools import missing, require_tool
from lab.unused_space import OLD_BYTE, files, live_on, look, mark, restored

SIZE = 96 * MIB
RECORD_BYTES = 1024
DATA = 0x80
UNCLEAN, HIBERNATED = 15, 14
"""What ntfs-3g.probe says of volumes that it would not write to."""


def make_ntfs(image: Path, *options: str, size: int = SIZE) -> Path:
    """An empty NTFS on a disk full of old data."""
    with image.open("wb") as file:
        for _ in range(size // MIB):
            file.write(bytes([OLD_BYTE]) * MIB)
    run("mkntfs", "--quiet", "--fast", "--force", *options, str(image))
    return image


def run(program: str, *arguments: str) -> None:
    done = subprocess.run([require_tool(program, "ntfs-3g"), *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


@contextmanager
def mounted_ntfs(image: Path, place: Path, options: str = "defaults") -> Iterator[Path]:
    """By ntfs-3g, as Linux guests do it."""
    require_tool("ntfs-3g", "ntfs-3g")
    if not Path("/dev/fuse").exists():
        missing("/dev/fuse is missing, which ntfs-3g needs")
    with mounted_apart(image, place, options, kind="ntfs-3g") as folder:
        yield folder


def sound(image: Path) -> None:
    """Every cluster of every file is compared with the bitmap."""
    run("ntfsresize", "--info", "--force", "--no-progress-bar", str(image))
    run("ntfsfix", "--no-action", str(image))


def probe(image: Path) -> int:
    return subprocess.run([require_tool("ntfs-3g.probe", "ntfs-3g"), "--readwrite", image], check=False).returncode


@pytest.mark.parametrize(
    "options",
    [(), ("-c", "512"), ("-c", "65536"), ("-s", "4096", "-c", "4096")],
    ids=lambda options: " ".join(options) or "default",
)
def test_free_clusters_of_ntfs(tmp_path: Path, options: tuple[str, ...]) -> None:
    image = make_ntfs(tmp_path / "disk", *options)
    with mounted_ntfs(image, tmp_path / "live") as folder:
        live_on(folder)
    found = look(image)
    (finding,) = found.findings
    assert (finding.kind, finding.doubt) == ("NTFS", "")
    assert finding.unused_bytes > SIZE * 0.4
    copy = restored(image, found)
    sound(copy)
    with mounted_ntfs(image, tmp_path / "one", "ro") as one, mounted_ntfs(copy, tmp_path / "other", "ro") as other:
        assert files(one) == files(other)
        assert len(files(one)) > 50


def test_a_file_whose_clusters_the_bitmap_calls_free_keeps_the_whole_volume(tmp_path: Path) -> None:
    """As it is on a disk that a driver was stopped in the middle of writing to."""
    image = make_ntfs(tmp_path / "disk")
    with mounted_ntfs(image, tmp_path / "live") as folder:
        (folder / "large").write_bytes(bytes(range(256)) * 8192)
    ((start, _),) = where(image, ntfs._BITMAP)
    before = image.read_bytes()
    used = before[start:].index(b"\xff\xff\xff\xff\xff\xff\xff\xff")
    mark(start + used + 3, b"\0")(image)
    (finding,) = look(image).findings
    assert (finding.unused_bytes, finding.doubt) == (0, "its bitmap calls part of a file free")


def where(image: Path, number: int) -> list[tuple[int, int]]:
    """(start, length) in bytes of the content of a file record."""
    with closing(open_disk(f"file:{image}", host_for(image.parent))) as disk:
        volume = Volume(disk, Extent(0, disk.size_bytes))
        shape = ntfs._shape(volume)
        found = the_one(ntfs._Records(volume, shape).file(number), DATA)
        return [(extent.start, extent.length) for extent in places(found, shape.cluster_bytes)]


def test_a_volume_to_be_checked_is_kept(tmp_path: Path) -> None:
    image = make_ntfs(tmp_path / "disk")
    assert look(image).unused
    run("ntfsfix", str(image))
    assert "marked as to be checked" in look(image).findings[0].doubt
    run("ntfsfix", "--clear-dirty", str(image))
    assert look(image).unused


def test_a_version_of_ntfs_that_is_not_known_is_kept(tmp_path: Path) -> None:
    image = make_ntfs(tmp_path / "disk")
    told = re.compile(rb"(\x70\0{3}\x28\0{3}.{16}\0{8})\x03\x01", re.DOTALL)  # the attribute with version and flags
    changed, times = told.subn(lambda found: found[1] + b"\x03\x02", image.read_bytes())
    assert times == 2, "it stands in the file table and in its mirror"
    image.write_bytes(changed)
    (finding,) = look(image).findings
    assert (finding.unused_bytes, finding.doubt) == (0, "it is of the unknown version 3.2")


def restart_page(lsn: int, client: int, flags: int, version: tuple[int, int] = (1, 1)) -> bytes:
    """As Windows writes it at the beginning of its log."""
    page = bytearray(4096)
    page[:8] = b"RSTR" + (30).to_bytes(2, "little") + (9).to_bytes(2, "little")
    for place, value, width in ((16, 4096, 4), (20, 4096, 4), (24, 48, 2), (26, version[1], 2), (28, version[0], 2)):
        page[place : place + width] = value.to_bytes(width, "little")
    area = ((0, lsn, 8), (8, 1, 2), (10, 0xFFFF if client == 0 else 0, 2), (12, client, 2), (14, flags, 2), (16, 46, 4))
    for place, value, width in (*area, (20, 0xE0, 2), (22, 0x40, 2), (24, 1 << 20, 8), (36, 0x30, 2), (38, 0x40, 2)):
        page[48 + place : 48 + place + width] = value.to_bytes(width, "little")
    client_at = 48 + 0x40
    page[client_at + 16 : client_at + 20] = b"\xff\xff\xff\xff"
    page[client_at + 28 : client_at + 32] = (8).to_bytes(4, "little")
    page[client_at + 32 : client_at + 40] = "NTFS".encode("utf-16-le")
    number = b"\x01\x00"
    page[30:32] = number
    for sector in range(1, 9):
        page[30 + 2 * sector : 32 + 2 * sector] = page[512 * sector - 2 : 512 * sector]
        page[512 * sector - 2 : 512 * sector] = number
    return bytes(page)


@pytest.mark.parametrize(
    ("pages", "dismounted"),
    [
        ((restart_page(9, 0xFFFF, 0), restart_page(8, 0xFFFF, 0)), True),
        ((restart_page(9, 0, 2), restart_page(9, 0, 2)), True),
        ((restart_page(8, 0, 0), restart_page(9, 0, 2)), True),
        ((restart_page(9, 0, 0), restart_page(8, 0, 2)), False),
        ((restart_page(9, 0, 0), restart_page(9, 0, 0)), False),
    ],
    ids=["no client", "clean", "clean at last", "mounted again", "mounted"],
)
def test_a_log_of_windows_is_judged_as_ntfs_3g_does(
    tmp_path: Path, pages: tuple[bytes, bytes], dismounted: bool
) -> None:
    image = make_ntfs(tmp_path / "disk")
    ((start, length),) = where(image, ntfs._LOG)
    mark(start, b"".join(pages) + bytes(length - 8192))(image)
    assert probe(image) == (0 if dismounted else UNCLEAN)
    found = look(image)
    assert bool(found.unused) == dismounted, found.findings
    assert dismounted or "not dismounted" in found.findings[0].doubt


def test_the_log_of_a_running_windows_is_of_another_form(tmp_path: Path) -> None:
    image = make_ntfs(tmp_path / "disk")
    ((start, length),) = where(image, ntfs._LOG)
    page = restart_page(9, 0, 2, (2, 0))
    mark(start, page * 2 + bytes(length - 8192))(image)
    assert "unknown form" in look(image).findings[0].doubt


def test_a_sleeping_windows_is_kept(tmp_path: Path) -> None:
    image = make_ntfs(tmp_path / "disk")
    with mounted_ntfs(image, tmp_path / "live") as folder:
        for number in range(300):  # so that the folder has blocks of its own
            (folder / f"{number}").touch()
    assert look(image).unused
    with mounted_ntfs(image, tmp_path / "live") as folder:
        (folder / "HiberFil.sys").write_bytes(b"hibr" + bytes(4092))
    assert look(image).findings[0].doubt == "it has a hiberfil.sys, in which part of it may lie"
    with mounted_ntfs(image, tmp_path / "live", "remove_hiberfile") as folder:
        (folder / "HiberFil.sys").rename(folder / "hiberfil.sys")
        (folder / "hiberfil.sys").write_bytes(b"hibr" + bytes(4092))
    assert probe(image) == HIBERNATED
    assert look(image).unused == []


def _damage(image: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    raw = image.read_bytes()
    mft, mirror = where(image, ntfs._MFT)[0][0], where(image, ntfs._MIRROR)[0][0]

    def flipped(offset: int) -> Callable[[Path], None]:
        return mark(offset, bytes([raw[offset] ^ 1]))

    for offset in (11, 13, 40, 48, 56, 64):
        yield f"boot sector, {offset}", flipped(offset)
    yield "copy of the boot sector", flipped(len(raw) - 512 + 80)
    for number in (0, 3):
        for offset in (0, 4, 22, 44, 64, 510, 1022):
            yield f"record {number}, {offset}", flipped(mft + number * RECORD_BYTES + offset)
            yield f"copy of record {number}, {offset}", flipped(mirror + number * RECORD_BYTES + offset)
    for number in (2, 5, 6):
        for offset in (0, 22, 44, 510):
            yield f"record {number}, {offset}", flipped(mft + number * RECORD_BYTES + offset)
    yield "cut", lambda image: os.truncate(image, len(raw) - 4096)


def test_damage_anywhere_on_the_way_keeps_the_whole_volume(tmp_path: Path) -> None:
    image = make_ntfs(tmp_path / "disk", size=16 * MIB)
    whole = image.read_bytes()
    assert look(image).unused
    for what, damage in list(_damage(image)):
        damage(image)
        assert look(image).unused == [], f"the checker is broken: {what}"
        image.write_bytes(whole)
    assert look(image).unused
