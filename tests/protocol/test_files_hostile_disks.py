"""Damage anywhere in journals, extended attributes and RAID superblocks: an answer, soon, and nothing else.

In this process, where a loop or an exception that the confined one would die of is seen.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import pytest

from holdfast_agent.errors import FilesUnreadable
from holdfast_agent.files import volumes as looking
from holdfast_agent.files.frames import Frame
from holdfast_agent.files.sources import ExportedDisk
from holdfast_agent.files.tree import Place, Tree
from holdfast_agent.files.walk import attributes_of
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
