"""Writes past the page cache end up where they belong, and what cannot go that way is left to the caller."""

from __future__ import annotations

import mmap
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast_agent.disks.direct import DirectWriter
from holdfast_agent.disks.open import open_target
from lab.contents import assert_same
from lab.disks import host_for

MIB = 1 << 20


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, disk_path_factory: pytest.TempPathFactory) -> Path:
    """On a disk, and on a tmpfs, which older kernels open with O_DIRECT not at all."""
    if request.param == "disk":
        return disk_path_factory.mktemp("direct")
    place = Path("/dev/shm") / f"holdfast-test-{os.getpid()}"  # noqa: S108 - a tmpfs is what is tested
    place.mkdir(mode=0o700)
    request.addfinalizer(lambda: [[file.unlink() for file in place.iterdir()], place.rmdir()])
    return place


def test_blocks_of_any_length_from_many_threads(folder: Path) -> None:
    rng = random.Random(1)
    whole = rng.randbytes(8 * MIB + 5000)
    pieces: list[tuple[int, bytes | memoryview]]
    pieces = [(start, whole[start : start + MIB]) for start in range(0, len(whole), MIB)]
    rng.shuffle(pieces)
    pieces[::2] = [(start, _at_a_page(piece)) for start, piece in pieces[::2]]  # written from where they stand
    target = open_target(f"file:{folder}/disk", host_for(folder), len(whole), create=True, overwrite=False)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda piece: target.write(*piece), pieces))
    target.finish()
    assert_same((folder / "disk").read_bytes(), whole)


def _at_a_page(data: bytes | memoryview) -> memoryview:
    buffer = memoryview(mmap.mmap(-1, len(data)))
    buffer[:] = data
    return buffer


def test_what_is_not_aligned_is_left_to_the_caller(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        writer = DirectWriter(file.fileno())
        assert writer.write(512, memoryview(bytes(4096))) == 0, "the offset"
        assert writer.write(0, memoryview(bytes(100))) == 0, "the length"
        assert writer.write(0, memoryview(b"x" * 5000)) in (0, 4096), "only whole pages"
        writer.close()
        writer.close()
        assert writer.write(0, memoryview(bytes(4096))) == 0
