"""Backups by real movers that leave out what no file system needs: real partitions, ext4, swap."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.geometry import Extent, Geometry
from holdfast_agent.model.ids import BlockId
from lab.contents import assert_same
from lab.devices import MIB, mounted
from lab.movers import Done, Site
from lab.tools import require_tool

LOG2 = 16
SYSTEM, SWAP = Extent(MIB, 96 * MIB), Extent(97 * MIB, 16 * MIB)
GEOMETRY = Geometry(114 * MIB, LOG2)
TABLE = "label: gpt\nstart=2048, size=196608, type=L\nstart=198656, size=32768, type=S\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class Machine:
    """A disk full of old data, with an ext4 in which files were deleted, and a swap partition."""

    def __init__(self, site: Site) -> None:
        self.folder = site.folder
        self.disk = site.folder / "disks" / "disk"
        self.url = f"file:{self.disk}"
        rng = random.Random(7)
        system = self.part("system", rng.randbytes(SYSTEM.length))
        make = (require_tool("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-b", "4096", "-E", "nodiscard")
        subprocess.run([*make, system], check=True)
        with mounted(system, self.folder / "live") as live:
            for number in range(60):
                (live / f"{number}").write_bytes(rng.randbytes(400_000))
            for number in range(0, 60, 2):
                (live / f"{number}").unlink()
        swap = self.part("swap", rng.randbytes(SWAP.length))
        subprocess.run([require_tool("mkswap", "util-linux"), "-q", swap], check=True)
        with self.disk.open("wb") as file:
            file.truncate(GEOMETRY.size_bytes)
        subprocess.run([require_tool("sfdisk", "fdisk"), "-q", self.disk], input=TABLE, text=True, check=True)
        self.put(SYSTEM, system)
        self.put(SWAP, swap)

    def part(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def put(self, place: Extent, image: Path) -> None:
        with self.disk.open("r+b") as file:
            file.seek(place.start)
            file.write(image.read_bytes())

    def system_of(self, disk: Path, name: str) -> Path:
        """The ext4 of ``disk`` as an image of its own."""
        with disk.open("rb") as file:
            file.seek(SYSTEM.start)
            return self.part(name, file.read(SYSTEM.length))

    def files(self, disk: Path, name: str) -> dict[str, bytes]:
        system = self.system_of(disk, name)
        subprocess.run([require_tool("e2fsck", "e2fsprogs"), "-f", "-n", system], check=True, capture_output=True)
        with mounted(system, self.folder / f"{name}.mounted", "ro") as folder:
            return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def change(self, number: int) -> None:
        """Delete a file and write another."""
        system = self.system_of(self.disk, "system")
        with mounted(system, self.folder / "live") as live:
            (live / f"{number}").unlink()
            (live / f"new {number}").write_bytes(random.Random(number).randbytes(300_000))
        self.put(SYSTEM, system)


def tree(done: Done) -> tuple[BlockId, Geometry]:
    """What both movers agree on."""
    assert done.proxy.root is not None
    assert done.proxy.root == done.repository.root
    counters = done.counters
    parts = (counters.zero_bytes, counters.unused_bytes, counters.unchanged_bytes, counters.deduplicated_bytes)
    assert counters.processed_bytes == GEOMETRY.size_bytes == sum(parts) + counters.sent_bytes
    return done.proxy.root, GEOMETRY


def restored(site: Site, done: Done, name: str) -> Path:
    path = site.folder / "disks" / name
    site.restore(*tree(done), f"file:{path}")
    return path


def assert_same_files(site: Site, machine: Machine, done: Done, name: str) -> None:
    copy = restored(site, done, name)
    before = machine.files(machine.disk, f"{name} was")
    assert len(before) >= 30
    assert machine.files(copy, f"{name} is") == before
    assert copy.read_bytes() != machine.disk.read_bytes()


def test_what_is_left_out_makes_the_point_smaller_and_no_file_different(site: Site) -> None:
    machine = Machine(site)
    slim = site.backup(machine.url, GEOMETRY, skip_unused=True)
    assert slim.counters.unused_bytes > 80 * MIB
    assert slim.stored_bytes < 30 * MIB
    assert slim.counters.read_bytes < 30 * MIB
    assert "ext4 at 1.00 MiB is unused" in slim.proxy.unused and "of swap at 97.0 MiB is unused" in slim.proxy.unused
    assert_same_files(site, machine, slim, "slim")

    machine.change(1)
    later = site.backup(machine.url, GEOMETRY, ChangeMode.DIGEST, tree(slim), skip_unused=True)
    assert later.counters.unused_bytes > 80 * MIB
    assert later.counters.sent_bytes < 2 * MIB
    assert_same_files(site, machine, later, "later")

    whole = site.backup(machine.url, GEOMETRY, ChangeMode.DIGEST, tree(later))
    assert (whole.counters.unused_bytes, whole.proxy.unused) == (0, "")
    assert_same(restored(site, whole, "whole").read_bytes(), machine.disk.read_bytes())

    again = site.backup(machine.url, GEOMETRY, ChangeMode.DIGEST, tree(whole), skip_unused=True)
    assert again.counters.sent_bytes == 0
    assert tree(again) == tree(later), "data of the base that nobody needs any more is zeros"


def test_only_what_the_disk_itself_is_asked_for_is_left_out(site: Site) -> None:
    machine = Machine(site)
    everything = (Extent(0, GEOMETRY.size_bytes),)
    full = site.backup(machine.url, GEOMETRY, ChangeMode.FULL, skip_unused=True)
    told = site.backup(machine.url, GEOMETRY, extents=everything, skip_unused=True)
    plain = site.backup(machine.url, GEOMETRY)
    assert tree(full) == tree(told) == tree(plain)
    tracked = site.backup(machine.url, GEOMETRY, ChangeMode.CBT, tree(plain), everything, skip_unused=True)
    assert tracked.repository.root == plain.repository.root
    assert {done.counters.unused_bytes for done in (full, told, plain, tracked)} == {0}
    assert_same(restored(site, full, "full").read_bytes(), machine.disk.read_bytes())


def test_a_tracker_that_lied_about_what_is_in_use_is_followed_by_a_look_of_our_own(site: Site) -> None:
    machine = Machine(site)
    done = site.backup(
        machine.url, GEOMETRY, extents=(Extent(0, MIB),), audit=AuditRate(percent=100.0), skip_unused=True
    )
    assert done.counters.missed_blocks > 0
    assert done.counters.unused_bytes > 80 * MIB
    assert_same_files(site, machine, done, "looked at")


def test_what_cannot_be_read_as_a_file_system_is_kept_whole(site: Site) -> None:
    machine = Machine(site)
    system = machine.system_of(machine.disk, "system")
    with system.open("r+b") as file:
        file.seek(4096 + 0x12)  # the number of free blocks in the first descriptor
        file.write(b"\x55")
    machine.put(SYSTEM, system)
    done = site.backup(machine.url, GEOMETRY, skip_unused=True)
    assert "ext4 at 1.00 MiB is kept whole: " in done.proxy.unused
    assert done.counters.unused_bytes == SWAP.length - (1 << LOG2), "all of swap but the block of its header"
    kept = restored(site, done, "kept").read_bytes()
    assert_same(kept[: SWAP.start], machine.disk.read_bytes()[: SWAP.start])
