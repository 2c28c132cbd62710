"""Files on arrays of Linux RAID, made by mdadm and the kernel: of all levels, also without one of the members."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from holdfast_agent.wire.files import FetchFiles, ListVolumes
from lab import file_trees as trees
from lab.devices import MIB
from lab.movers import Site
from lab.raids import Wanted, make_arrays

CHUNKS, KEPT = "--chunk=64", ("--assume-clean", "--bitmap=none")
ARRAYS = {
    "mirror": Wanted(("--level=1", "--metadata=1.0", *KEPT), 2),
    "stripes": Wanted(("--level=0", CHUNKS), 2),
    "copies": Wanted(("--level=10", CHUNKS, "--metadata=1.1", *KEPT), 3),
    "parity": Wanted(("--level=5", CHUNKS, *KEPT), 3),
    "two": Wanted(("--level=6", CHUNKS, "--layout=ra", *KEPT), 4),
}


class Arrays(NamedTuple):
    """All disks of all arrays, served as of one guest, and what is on each array."""

    site: Site
    content: Path
    disks: dict[str, list[str]]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrays]:
    folder = tmp_path_factory.mktemp("raid")
    content = folder / "content"
    content.mkdir()
    for size in (5, 300_000, 2 * MIB):
        numbers = b"".join(b"%07d\n" % number for number in range(size // 8 + 1))
        (content / f"size-{size}").write_bytes(numbers[:size])
    image = trees.make_ext4(folder / "image", content, size=8 * MIB)
    (folder / "made").mkdir()
    made = make_arrays(folder / "made", ARRAYS, image)
    site = Site(folder)
    with trees.served(site, {disk.name: disk for disks in made.values() for disk in disks}):
        yield Arrays(site, content, {name: [disk.name for disk in disks] for name, disks in made.items()})


def test_arrays_are_volumes_by_their_own_names(arrays: Arrays) -> None:
    disks = [disk for members in arrays.disks.values() for disk in members]
    told = trees.look(arrays.site, disks, ListVolumes()).volumes
    assert {each.name: (each.kind, each.note) for each in told} == {f"md-{name}": ("ext4", "") for name in ARRAYS}


@pytest.mark.parametrize("missing", [None, 0, 1, 2, 3])
def test_files_are_read_from_arrays(missing: int | None, arrays: Arrays) -> None:
    """From all members, and without one of each array that can do without."""
    out = arrays.site.folder / "disks" / f"out-{missing}"
    disks = [
        disk
        for name, members in arrays.disks.items()
        for number, disk in enumerate(members)
        if number != missing or name == "stripes"
    ]
    found = trees.look(arrays.site, disks, FetchFiles(paths=(b"/",), target=str(out)))
    assert found.complaints == ()
    expected = trees.described(arrays.content, unix=False)
    for name in ARRAYS:
        assert (trees.described(out / f"md-{name}", unix=False).items() >= expected.items()) is True, name


def test_an_array_that_is_not_whole_says_what_to_do(arrays: Arrays) -> None:
    (volume,) = trees.look(arrays.site, arrays.disks["stripes"][:1], ListVolumes()).volumes
    assert (volume.name, volume.kind, volume.place) == ("md-stripes", "RAID 0", "")
    assert "1 of its 2 members are not in the restore point: restore its disks" in volume.note


def test_a_member_with_old_metadata_is_not_taken_for_what_it_begins_with(tmp_path: Path) -> None:
    """The first stripe of an array begins with the file system's superblock, and the next ones are elsewhere."""
    (tmp_path / "content").mkdir()
    image = trees.make_ext4(tmp_path / "image", tmp_path / "content", size=8 * MIB)
    with image.open("r+b") as file:
        file.seek(8 * MIB - 65536)
        file.write(struct.pack("<4sII16xi", b"\xfc\x4e\x2b\xa9", 0, 90, 5))
    site = Site(tmp_path)
    with trees.served(site, {"old.img": image}) as disks:
        (volume,) = trees.look(site, disks, ListVolumes()).volumes
    assert (volume.kind, volume.place) == ("RAID", "")
    assert "metadata of an old form cannot be read here: restore its disks" in volume.note
