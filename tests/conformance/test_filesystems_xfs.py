"""What is left out of an XFS: no more than its own tools call free, and nothing where its log may know better."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from holdfast_agent.disks.open import open_disk
from holdfast_agent.filesystems import xfs
from holdfast_agent.filesystems.crc32c import crc32c
from holdfast_agent.filesystems.reading import Volume
from holdfast_agent.model.geometry import Extent
from lab.devices import FILE_SYSTEMS, MIB, mounted_apart
from lab.disks import host_for
from lab.tools import missing, require_tool
from lab.unused_space import files, live_on, look, restored

SIZE = FILE_SYSTEMS["xfs"].least_bytes
MUCH = 0.5
HEADER = b"\xfe\xed\xba\xbe"
NOT_FROZEN = "it was mounted and not frozen"


def make_xfs(image: Path, *options: str, size: int = SIZE) -> Path:
    with image.open("wb") as file:
        file.truncate(size)
    made = subprocess.run(
        [require_tool("mkfs.xfs", "xfsprogs"), "-q", *options, image], check=False, capture_output=True
    )
    if made.returncode:
        missing(f"mkfs.xfs cannot {' '.join(options)}: {made.stderr.decode()}")
    return image


def sound(image: Path) -> None:
    subprocess.run([require_tool("xfs_repair", "xfsprogs"), "-n", image], check=True, capture_output=True)


def xfs_db(image: Path, *commands: str) -> str:
    words = [word for each in commands for word in ("-c", each)]
    program = require_tool("xfs_db", "xfsprogs")
    return subprocess.run([program, "-r", *words, image], check=True, capture_output=True, text=True).stdout


def free_by_xfs_db(image: Path) -> list[Extent]:
    """The free space as XFS's own debugger tells it, in bytes; without what is kept for its trees."""
    numbers = dict(re.findall(r"(\w+) = (\d+)", xfs_db(image, "sb 0", "print blocksize agblocks agcount")))
    block, group_bytes = int(numbers["blocksize"]), int(numbers["agblocks"]) * int(numbers["blocksize"])
    extents = []
    for group in range(int(numbers["agcount"])):
        told = xfs_db(image, f"freesp -d -a {group}", f"agf {group}", "print flcount")
        lines = re.findall(rf"^ *{group} +(\d+) +(\d+) *$", told, re.MULTILINE)
        kept = int(re.findall(r"flcount = (\d+)", told)[0])
        extents += [Extent(group * group_bytes + int(at) * block, int(count) * block) for at, count in lines[kept:]]
    return sorted(extents)


def free_by_us(image: Path) -> list[Extent]:
    with closing(open_disk(f"file:{image}", host_for(image.parent))) as disk:
        return list(xfs.unused(Volume(disk, Extent(0, disk.size_bytes))))


def assert_same_files(image: Path, copy: Path, folder: Path) -> None:
    with mounted_apart(image, folder / "one", "ro,nouuid") as one:
        before = files(one)
    with mounted_apart(copy, folder / "other", "nouuid") as other:
        assert files(other) == before
    assert len(before) > 50


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-m", "rmapbt=1,reflink=1"),
        ("-m", "finobt=0,reflink=0,bigtime=0,inobtcount=0"),
        ("-b", "size=1024", "-d", "agcount=2"),
        ("-s", "size=4096", "-l", "su=256k"),
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_free_space_of_xfs(tmp_path: Path, options: tuple[str, ...]) -> None:
    image = make_xfs(tmp_path / "disk", *options)
    with mounted_apart(image, tmp_path / "live") as folder:
        live_on(folder)
    free = free_by_us(image)
    assert free == free_by_xfs_db(image)
    assert len(free) > 60
    assert "size=1024" not in options or "level = 2" in xfs_db(image, "agf 0", "print bnolevel")
    found = look(image)
    (finding,) = found.findings
    assert (finding.kind, finding.doubt) == ("XFS", "")
    assert finding.unused_bytes > SIZE * MUCH
    copy = restored(image, found)
    sound(copy)
    assert_same_files(image, copy, tmp_path)
    sound(copy)


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    subprocess.run(["fsfreeze", "--freeze", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", folder], check=True)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small file system whose log has gone round, as it was while it was mounted, frozen, and afterwards."""
    tmp_path = tmp_path_factory.mktemp("busy")
    image = make_xfs(tmp_path / "unmounted", "--unsupported", "-l", "size=6m", size=64 * MIB)
    with mounted_apart(image, tmp_path / "live") as folder:
        for turn in range(4):
            for number in range(3000):
                (folder / f"{turn}.{number}").write_bytes(b"x")
            os.sync()
            for number in range(3000):
                (folder / f"{turn}.{number}").unlink()
            os.sync()
        live_on(folder)
        (folder / "last").touch()
        subprocess.run(["sync", "-f", folder], check=True)
        shutil.copyfile(image, tmp_path / "mounted")
        with frozen(folder):
            shutil.copyfile(image, tmp_path / "frozen")
    return {name: tmp_path / name for name in ("mounted", "frozen", "unmounted")}


def copied(image: Path, folder: Path) -> Path:
    return Path(shutil.copyfile(image, folder / "disk"))


def log_of(image: Path) -> Extent:
    with closing(open_disk(f"file:{image}", host_for(image.parent))) as disk:
        return xfs._shape(Volume(disk, Extent(0, disk.size_bytes))).log


def test_a_log_that_has_something_to_say_keeps_the_whole_volume(busy: dict[str, Path], tmp_path: Path) -> None:
    (finding,) = look(busy["mounted"]).findings
    assert (finding.unused_bytes, NOT_FROZEN in finding.doubt) == (0, True)
    for name in ("frozen", "unmounted"):
        image = copied(busy[name], tmp_path)
        log = log_of(image)
        with image.open("rb") as file:
            file.seek(log.start)
            assert file.read(8)[-4:] != bytes([0, 0, 0, 1]), "its log has not gone round"
        found = look(image)
        assert found.findings[0].unused_bytes > 64 * MIB * MUCH
        assert_same_files(image, restored(image, found), tmp_path)
        sound(image)


def test_no_record_of_the_log_is_passed_over(busy: dict[str, Path], tmp_path: Path) -> None:
    """A frozen file system whose log also speaks of an inode, or of any buffer but the superblock's, is not covered."""
    image = copied(busy["frozen"], tmp_path)
    log = log_of(image)
    raw = image.read_bytes()
    (formats,) = [
        [log.start + match.start() for match in re.finditer(pattern, raw[log.start : log.end])]
        for pattern in (rb"\x3c\x12\x02\x00..\x01\x00" + bytes(8),)
    ]
    last = formats[-1]
    header = raw.rindex(HEADER, 0, last)
    for place, value in ((last, b"\x3b\x12"), (last + 8, b"\x08"), (last + 2, b"\x03")):
        altered = bytearray(raw)
        altered[place : place + len(value)] = value
        seal_log_record(altered, header)
        image.write_bytes(altered)
        (finding,) = look(image).findings
        assert (finding.unused_bytes, NOT_FROZEN in finding.doubt) == (0, True)
    again = bytearray(raw)
    seal_log_record(again, header)
    assert again == raw, "the test seals records as XFS does not"


def seal_log_record(raw: bytearray, header: int) -> None:
    (length,) = struct.unpack_from(">I", raw, header + 12)
    data = header + 512
    found = crc32c(bytes(raw[header : header + 32]) + bytes(4) + bytes(raw[header + 36 : header + 328]))
    struct.pack_into("<I", raw, header + 32, crc32c(bytes(raw[data : data + length]), found) ^ 0xFFFFFFFF)


def _spots(raw: bytes, image: Path) -> Iterator[tuple[str, int]]:
    """Bytes that decide what is left out."""
    block, group_blocks = struct.unpack_from(">I", raw, 4)[0], struct.unpack_from(">I", raw, 84)[0]
    yield from (("superblock", offset) for offset in (7, 15, 87, 91, 219, 227))
    for group in (0, 3):
        start = group * group_blocks * block
        yield from (("group", start + 512 + offset) for offset in (15, 19, 23, 55, 219))
        for pointer in (16, 20):
            (root,) = struct.unpack_from(">I", raw, start + 512 + pointer)
            yield from (("tree", start + root * block + offset) for offset in (7, 55, 59, 63, block - 1))
    log = log_of(image)
    head = raw.rindex(HEADER + raw[log.start + 4 : log.start + 8], log.start, log.end)
    yield from (("log", head + offset) for offset in (7, 15, 23, 35, 43, 310, 512, 520, 1020))


def test_a_flipped_bit_anywhere_on_the_way_keeps_the_whole_volume(tmp_path: Path) -> None:
    image = make_xfs(tmp_path / "disk")
    with mounted_apart(image, tmp_path / "live") as folder:
        live_on(folder)
    raw = image.read_bytes()
    assert look(image).unused
    for what, spot in _spots(raw, image):
        for bit in (0, 7):
            with image.open("r+b") as file:
                file.seek(spot)
                file.write(bytes([raw[spot] ^ 1 << bit]))
            assert look(image).unused == [], f"the checker is broken at {spot} ({what})"
            with image.open("r+b") as file:
                file.seek(spot)
                file.write(raw[spot : spot + 1])
    assert look(image).unused


def test_what_was_being_written_to_the_log_keeps_the_whole_volume(busy: dict[str, Path], tmp_path: Path) -> None:
    """A sector of the next cycle behind the head, and one of the last cycle before it: both are holes in the log."""
    image = copied(busy["frozen"], tmp_path)
    log = log_of(image)
    raw = image.read_bytes()
    places = [at + 4 * (raw[at : at + 4] == HEADER) for at in range(log.start, log.end, 512)]
    cycles = [int.from_bytes(raw[place : place + 4]) for place in places]
    first, head = cycles[0], cycles.index(cycles[0] - 1)
    for sector, stamp in ((head + 9, first), (head - 300, first - 1), (head - 300, first + 1)):
        with image.open("r+b") as file:
            file.seek(places[sector])
            file.write(stamp.to_bytes(4))
        assert look(image).unused == [], f"a sector {sector - head} from the head was passed over"
        image.write_bytes(raw)
    assert look(image).unused


@pytest.mark.parametrize(
    ("options", "doubt"),
    [(("-m", "crc=0"), "no checksums"), (("-r", "rtdev=/dev/null"), "elsewhere"), ((), "")],
)
def test_forms_of_xfs_that_are_not_known_are_kept_whole(tmp_path: Path, options: tuple[str, ...], doubt: str) -> None:
    if "-r" in options:
        realtime = tmp_path / "realtime"
        with realtime.open("wb") as file:
            file.truncate(64 * MIB)
        options = ("-r", f"rtdev={realtime}", "-m", "reflink=0,rmapbt=0")
    found = look(make_xfs(tmp_path / "disk", *options))
    assert (found.unused == []) == bool(doubt)
    assert doubt in found.findings[0].doubt


def test_a_feature_that_is_not_known_keeps_the_whole_volume(tmp_path: Path) -> None:
    image = make_xfs(tmp_path / "disk")
    with image.open("rb") as file:
        raw = file.read(512)
    for place in (208, 212, 216, 220):
        altered = bytearray(raw)
        altered[place] |= 0x80
        altered[224:228] = bytes(4)
        struct.pack_into("<I", altered, 224, crc32c(bytes(altered)) ^ 0xFFFFFFFF)
        with image.open("r+b") as file:
            file.write(altered)
        assert "unknown features" in look(image).findings[0].doubt
