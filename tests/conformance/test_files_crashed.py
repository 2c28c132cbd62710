"""File systems that were in use and not frozen: what is read is what a kernel shows that mounts them, or it is told."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.errors import Cancelled
from holdfast_agent.wire.files import FetchFiles, FindFiles, ListFiles, ListVolumes, MountFiles
from holdfast_agent.wire.movers import Connected
from lab import file_trees as trees
from lab.devices import FILE_SYSTEMS, MIB, mounted_apart
from lab.movers import Site, stop
from lab.tools import require_tool

_SHUT_DOWN, _LOSE_THE_LOG = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN: as if the power had gone
FEW = 80
JOURNAL_MAGIC = b"\xc0\x3b\x39\x98"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def crash(image: Path, options: str = "defaults", kind: str = "ext4", turns: int = 600) -> None:
    """Work in the file system of ``image``, some of it made to last, until it dies in the midst."""
    with mounted_apart(image, image.with_name("mounted"), options, kind) as folder:
        live(folder, random.Random(kind + options), turns)
        fd = os.open(folder, os.O_RDONLY)
        fcntl.ioctl(fd, _SHUT_DOWN, struct.pack("I", _LOSE_THE_LOG))
        os.close(fd)


def live(folder: Path, rng: random.Random, turns: int) -> None:
    """Files and folders come, change and go; blocks of folders become blocks of files, which a journal revokes."""
    for turn in range(turns):
        file = folder / f"f{rng.randrange(60)}"
        inside = folder / f"d{rng.randrange(5)}"
        match rng.randrange(7):
            case 0 | 1:
                file.write_bytes(JOURNAL_MAGIC + rng.randbytes(rng.choice((0, 3000, 30_000))))
            case 2:
                inside.mkdir(exist_ok=True)
                for number in range(rng.randrange(80)):
                    (inside / f"{turn}-{number}-{'x' * 40}").touch()
            case 3:
                shutil.rmtree(inside, ignore_errors=True)
            case 4 if file.exists():
                file.rename(folder / f"r{turn % 20}")
            case 5 if file.exists():
                os.setxattr(file, "user.turn", b"%d" % turn)
                os.truncate(file, rng.randrange(5000))
            case 6:
                file.unlink(missing_ok=True)
        if turn % 40 == 39:
            with (folder / "lasting").open("ab") as lasting:
                lasting.write(b"%d\n" % turn)
                lasting.flush()
                os.fsync(lasting.fileno())
    with (folder / "lasting").open("ab") as lasting:
        for _ in range(2):  # the second time nothing has happened but this, which can be a fast commit
            lasting.write(b"the end\n")
            lasting.flush()
            os.fsync(lasting.fileno())


def as_a_kernel_shows_it(image: Path, kind: str = "ext4") -> dict[bytes, tuple[object, ...]]:
    copy = image.with_name("copy")
    shutil.copyfile(image, copy)
    with mounted_apart(copy, image.with_name("looked-at"), kind=kind) as folder:
        shown = trees.described(folder)
    copy.unlink()
    return shown


FORMS = {
    "checksums": (("-t", "ext4", "-b", "4096", "-J", "size=4"), "defaults"),
    "round the ring": (("-t", "ext4", "-b", "1024", "-J", "size=1"), "defaults"),
    "ext3": (("-t", "ext3", "-b", "1024", "-J", "size=2"), "defaults"),
    "content too": (("-t", "ext4", "-O", "^metadata_csum", "-J", "size=8"), "data=journal"),
}


def make(image: Path, options: tuple[str, ...], mounted: str = "defaults", turns: int = 600) -> Path:
    trees.run_tool(trees.require_tool("mke2fs", "e2fsprogs"), "-q", "-F", *options, trees.blank(image, 48 * MIB))
    crash(image, mounted, turns=turns)
    return image


def test_a_journal_is_carried_out_as_the_kernel_does(site: Site, tmp_path: Path) -> None:
    """In all forms that journals have; and nothing is written."""
    images = {}
    for number, (options, mounted) in enumerate(FORMS.values()):
        images[f"disk{number}"] = make(tmp_path / f"image{number}", options, mounted)
    out = site.folder / "disks" / "out"
    with trees.served(site, images) as disks:
        found = trees.look(site, disks, FetchFiles(paths=(b"/",), target=str(out)))
        volumes = trees.look(site, disks, ListVolumes()).volumes
    assert found.complaints == ()
    for form, volume, (name, image) in zip(FORMS, volumes, images.items(), strict=True):
        transactions = re.search(r"its journal \((\d+) transactions\) is carried out", volume.note)
        assert transactions is not None and int(transactions[1]) > 0, form
        shown, restored = as_a_kernel_shows_it(image), trees.described(out / name)
        assert b"lasting" in shown
        assert restored.keys() == shown.keys(), form
        assert [path for path in shown if restored[path] != shown[path]] == [], form


def damaged(image: Path, change: Callable[[bytearray, int], None]) -> Path:
    """Its journal was changed, which begins in the image at the superblock that ``change`` is told of."""
    disk = bytearray(image.read_bytes())
    change(disk, disk.index(JOURNAL_MAGIC + struct.pack(">I", 4)))
    image.write_bytes(disk)
    return image


def flip_a_bit(disk: bytearray, at: int) -> None:
    size, _, _, sequence, start = struct.unpack_from(">5I", disk, at + 12)
    place = at + start * size
    # A descriptor, or what is revoked.
    assert disk[place : place + 12] in [JOURNAL_MAGIC + struct.pack(">II", kind, sequence) for kind in (1, 5)]
    disk[place + 20] ^= 1


def ask_for_more(disk: bytearray, at: int) -> None:
    disk[at + 43] |= 0x80  # a feature that nobody knows


def crashed_xfs(image: Path) -> Path:
    maker = trees.require_tool(FILE_SYSTEMS["xfs"].maker[0], FILE_SYSTEMS["xfs"].package)
    trees.run_tool(maker, "-q", trees.blank(image, FILE_SYSTEMS["xfs"].least_bytes))
    crash(image, kind="xfs", turns=FEW)
    return image


def test_what_cannot_be_carried_out_is_told_wherever_files_are(site: Site, tmp_path: Path) -> None:
    require_tool("fusermount3", "fuse3")
    options, _ = FORMS["checksums"]
    whole = make(tmp_path / "whole", options, turns=FEW)
    for name in ("flipped", "newer"):
        shutil.copyfile(whole, tmp_path / name)
    images = {
        "flipped": damaged(tmp_path / "flipped", flip_a_bit),
        "newer": damaged(tmp_path / "newer", ask_for_more),
        "fast": make(tmp_path / "fast", ("-t", "ext4", "-b", "4096", "-O", "fast_commit", "-J", "size=8"), turns=FEW),
        "xfs": crashed_xfs(tmp_path / "xfs"),
    }
    doubts = {
        "flipped": "its journal is damaged",
        "newer": "unknown features (0x80)",
        "fast": "its fast commits",
        "xfs": "its log is not carried out",
    }
    with trees.served(site, images) as disks:
        volumes = trees.look(site, disks, ListVolumes()).volumes
        listed = trees.look(site, disks, ListFiles(path=b"/xfs")).complaints
        found = trees.look(site, disks, FindFiles(path=b"/", pattern=b"*")).complaints
        wish = FetchFiles(paths=(b"/xfs", b"/newer"), target=str(site.folder / "disks" / "out"))
        fetched = trees.look(site, disks, wish).complaints
        with trees.looking(site, disks, MountFiles(target=str(site.folder / "disks" / "mounted"))) as mover:
            mounted = mover.expect(Connected).notes
            stop(mover)
            assert isinstance(mover.failure(), Cancelled)
    told = [(volume.name, volume.note) for volume in volumes]
    for path, _, text in (each.partition(": ") for each in (*listed, *found, *fetched, *mounted)):
        told.append((path.lstrip("/"), text))
    about = [(name, text) for name, text in told if "restore the disk and mount that" in text]
    assert sorted(name for name, _ in about) == [*["fast"] * 3, *["flipped"] * 3, *["newer"] * 4, *["xfs"] * 5]
    assert [text for name, text in about if doubts[name] not in text] == []
