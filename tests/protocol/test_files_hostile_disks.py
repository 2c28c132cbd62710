"""Damage anywhere in journals, extended attributes and RAID superblocks: an answer, soon, and nothing else.

In this process, where a loop or an exception that the confined one would die of is seen.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import pytest

from holdfast_agent.errors import FilesUnreadable
from holdfast_agent.files import md, thin
from holdfast_agent.files import volumes as looking
from holdfast_agent.files.frames import Frame
from holdfast_agent.files.sources import ExportedDisk
from holdfast_agent.files.tree import Place, Tree
from holdfast_agent.files.walk import attributes_of
from holdfast_agent.filesystems.crc32c import crc32c
from holdfast_agent.filesystems.reading import Doubt
from lab import file_trees as trees
from lab.devices import FILE_SYSTEMS, MIB, mounted_apart

PAGE = 1024
TURNS = 60
MOST_CPU_S = 5.0


class Mutated:
    """An image some of whose bytes are others."""

    def __init__(self, image: bytes, changes: dict[int, int]) -> None:
        self.url = "disk"
        self.size_bytes = len(image)
        self._image = image
        self._changes = changes

    def read(self, offset: int, length: int) -> bytes:
        data = self._image[offset : offset + length]
        hit = [at for at in self._changes if offset <= at < offset + len(data)]
        if hit:
            changed = bytearray(data)
            for at in hit:
                changed[at - offset] ^= self._changes[at]
            data = bytes(changed)
        return data


def journalled(image: Path) -> None:
    """Whose journal is due: writes, revokes and an escaped block, by the tool that tests e2fsck."""
    options = ("-b", "1024", "-J", "size=1", "-O", "metadata_csum,64bit")
    content = image.with_name("content")
    attributes(content)
    trees.make_ext4(image, content, *options, size=4 * MIB)
    block = image.with_name("block")
    block.write_bytes(b"\xc0\x3b\x39\x98" + bytes(1020))
    commands = image.with_name("commands")
    commands.write_text(f"jo -c\njw -b 3000,3001 {block}\njw -r 3000\njw -b 3002 {block}\njc\n")
    trees.run_tool("debugfs", "-w", "-f", commands, image)


def full(image: Path) -> None:
    maker = trees.require_tool(FILE_SYSTEMS["xfs"].maker[0], FILE_SYSTEMS["xfs"].package)
    trees.run_tool(maker, "-q", trees.blank(image, FILE_SYSTEMS["xfs"].least_bytes))
    with mounted_apart(image, image.with_name("mounted"), kind="xfs") as folder:
        attributes(folder)
        for number in range(100):
            os.setxattr(folder / "far", f"user.{number}", bytes(300))
        os.setxattr(folder / "far", "user.long", bytes(9000))


def attributes(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, size in (("near", 20), ("far", 700)):
        (folder / name).touch()
        os.setxattr(folder / name, "user.value", b"x" * size)
    trees.run_tool(trees.require_tool("setfacl", "acl"), "-m", "u:1234:r--", folder / "near")


@pytest.mark.parametrize("make", [journalled, full], ids=lambda make: make.__name__)
def test_damage_ends_in_an_answer(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "image")
    with (tmp_path / "image").open("rb") as file:
        image = file.read()
    zeros = bytes(PAGE)
    used = [at for at in range(0, len(image), PAGE) if image[at : at + PAGE] != zeros[: len(image) - at]]
    assert look(Mutated(image, {})) >= 3
    rng = random.Random(make.__name__)
    for _ in range(TURNS):
        changes = {
            rng.choice(used) + rng.randrange(PAGE): rng.randrange(1, 256) for _ in range(rng.choice((1, 30, 300)))
        }
        began = time.thread_time()
        look(Mutated(image, changes))
        assert time.thread_time() - began < MOST_CPU_S, changes


def look(disk: Mutated) -> int:
    """How many attributes there are on it."""
    told: list[Frame] = []
    tree = Tree(looking.volumes([cast(ExportedDisk, disk)]))
    try:
        return sum(len(attributes_of(place, told.append)) for place in islice(places(tree), 20))
    except FilesUnreadable:
        return 0


def places(tree: Tree) -> Iterator[Place]:
    root = tree.at(b"/")
    yield root
    children = tree.children(root)
    while True:
        try:
            yield next(children)
        except StopIteration:
            return
        except Exception:  # noqa: BLE001 - as the walk of the confined process takes whatever a library raises
            return


def superblock(rng: random.Random) -> bytes:
    """Of version 1.2, with a right checksum and of sound fields some that are nonsense."""
    raw = bytearray(4096 + 512)

    def some(sound: tuple[int, ...], *nonsense: int) -> int:
        return rng.choice(sound if rng.random() < 0.9 else nonsense)

    fields = {
        8: some((0, 0x1), 0x2, 0x4, 0x200),
        72: some((-1, 0, 1, 4, 5, 6, 10), 77) & 0xFFFFFFFF,
        76: some((0, 2, 5, 0x102), 0x10102, 0x201, 1 << 31),
        80: some((2048,), 2047, 1 << 31),
        88: some((8, 128), 0, 7, 1 << 31),
        92: some((1, 2, 3), 0, 1 << 31),
        128: some((2048,), 0, 1 << 31),
        136: some((2048,), 1, 1 << 31),
        160: some((0, 1, 2), 1 << 31),
        200: some((5, 6), 1 << 31),
        208: some((0,), 1 << 31),
        220: some((3,), 0, 1 << 31),
    }
    raw[4096:4104] = b"\xfc\x4e\x2b\xa9\1\0\0\0"
    raw[4096 + 144] = 8
    for at, value in fields.items():
        raw[4096 + at : 4100 + at] = value.to_bytes(4, "little")
    roles = struct.pack("<3H", *(some((place,), 0, 1, 2, 0xFFFE, 0xFFFF) for place in range(3)))
    raw[4352 : 4352 + len(roles)] = roles
    words = struct.unpack_from("<64I", raw, 4096)
    total = sum(words) + sum(struct.unpack("<I", roles[:4])) + int.from_bytes(roles[4:], "little")
    raw[4096 + 216 : 4096 + 220] = ((total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(raw)


def test_arrays_of_any_shape_are_read_or_doubted() -> None:
    rng = random.Random(10)
    read = doubted = 0
    for _ in range(800):
        members = []
        for _ in range(rng.randrange(1, 4)):
            disk = Mutated(superblock(rng).ljust(2 * MIB, b"\7"), {})
            try:
                found = md.member(disk)
            except Doubt:
                doubted += 1
                continue
            assert found is not None, "the checker's own superblocks are not right"
            members.append(found)
        for array in md.arrays(members):
            if array.source is None:
                assert array.note
                doubted += 1
                continue
            read += 1
            for at in (0, array.size_bytes // 2, max(0, array.size_bytes - 1)):
                assert len(array.source.read(at, 5000)) == min(5000, array.size_bytes - at)
    assert min(read, doubted) > 50


def sealed(block: bytes, xor: int) -> bytes:
    """A block of a pool's metadata with its checksum."""
    whole = block.ljust(4092, b"\0")
    return (crc32c(whole) ^ xor).to_bytes(4, "little") + whole


def pool(rng: random.Random) -> bytes:
    """Metadata whose root names trees, the nodes of which refer to each other at random, all with right checksums."""
    nodes = rng.randrange(3, 7)
    raw = bytearray(340)
    struct.pack_into("<QI", raw, 28, 27022010, 2)
    struct.pack_into("<QQII", raw, 316, 1, 0, rng.choice((128, 128, 128, 1)), 8)
    blocks = [sealed(bytes(raw), 160774)]
    for number in range(1, nodes + 1):
        kind = 2 if number == 1 else rng.choice((1, 1, 2, 2, 2, 3))
        entries = 252 if number == 1 else rng.choice((0, 1, 100, 252, 4000))
        most = rng.choice((252, 252, 252, entries))
        head = struct.pack("<IQIIII", kind, number, entries, most, 8, 0)
        keys = struct.pack("<252Q", *(range(252) if number == 1 else sorted(rng.sample(range(1600), 252))))
        values = struct.pack("<252Q", *(rng.choice((rng.randrange(nodes + 2), 1 << 63, 5 << 24)) for _ in range(252)))
        blocks.append(sealed(head + keys + values, 121107))
    return b"".join(blocks)


def test_pools_of_any_shape_are_read_or_doubted() -> None:
    rng = random.Random(11)
    read = doubted = 0
    for _ in range(150):
        try:
            found = thin.Pool(Mutated(pool(rng), {}), Mutated(b"\7" * MIB, {}))
            volume = found.volume(rng.randrange(252), 100 << 20)
        except Doubt:
            doubted += 1
            continue
        for _ in range(20):
            at = rng.randrange(100 << 20)
            try:
                read += len(volume.read(at, 5000)) == min(5000, (100 << 20) - at)
            except Doubt:
                doubted += 1
    assert min(read, doubted) > 50
