"""Restoring to files, and where disks may lie."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from holdfast_agent.disks.disk import ReservingDisk
from holdfast_agent.disks.open import open_disk, open_target
from holdfast_agent.errors import DiskDenied, DiskExists, DiskFolderMissing, DiskNotFound, DiskUnwritable, UsageError
from lab.contents import assert_same
from lab.disks import host_for

SIZE = 3 << 20


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_file_appears_only_when_it_is_whole_and_stays_sparse(tmp_path: Path) -> None:
    target = open_target(f"file:{tmp_path}/new", host_for(tmp_path), SIZE, create=True, overwrite=False)
    target.write(1 << 20, b"data")
    target.write_zeros(0, 1 << 20)
    assert entries(tmp_path) == set()
    target.finish()
    target.abort()
    expected = bytes(1 << 20) + b"data" + bytes(SIZE - (1 << 20) - 4)
    assert_same((tmp_path / "new").read_bytes(), expected)
    assert (tmp_path / "new").stat().st_blocks * 512 < 1 << 20


def test_a_folder_that_is_not_there_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(DiskFolderMissing, match=f"the directory {tmp_path}/none"):
        open_target(f"file:{tmp_path}/none/new", host_for(tmp_path), SIZE, create=True, overwrite=False)


def test_a_restore_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    target = open_target(f"file:{tmp_path}/new", host_for(tmp_path), SIZE, create=True, overwrite=False)
    target.write(0, b"data")
    target.abort()
    target.abort()
    assert entries(tmp_path) == set()


def test_a_range_that_will_be_written_has_its_space_beforehand_and_nothing_else_has(tmp_path: Path) -> None:
    target = open_target(f"file:{tmp_path}/new", host_for(tmp_path), SIZE, create=True, overwrite=False)
    assert isinstance(target, ReservingDisk)
    target.write(1 << 20, b"early")
    target.reserve(1 << 20, 1 << 20)
    target.finish()
    assert (tmp_path / "new").stat().st_blocks * 512 == 1 << 20
    assert_same((tmp_path / "new").read_bytes(), bytes(1 << 20) + b"early" + bytes(SIZE - (1 << 20) - 5))


def test_space_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    target = open_target(f"file:{tmp_path}/new", host_for(tmp_path), SIZE, create=True, overwrite=False)
    assert isinstance(target, ReservingDisk)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, hard))
    try:
        with pytest.raises(DiskUnwritable, match="too large"):
            target.reserve(SIZE - 1, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    target.abort()
    assert entries(tmp_path) == set()


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    host, path = host_for(tmp_path), tmp_path / "disk"
    path.write_bytes(b"old")
    with pytest.raises(DiskExists):
        open_target(f"file:{path}", host, SIZE, create=True, overwrite=False)
    target = open_target(f"file:{path}", host, SIZE, create=True, overwrite=True)
    assert path.read_bytes() == b"old"
    target.finish()
    assert_same(path.read_bytes(), bytes(SIZE))
    assert entries(tmp_path) == {"disk"}


def test_a_file_that_appears_during_the_restore_is_not_replaced(tmp_path: Path) -> None:
    target = open_target(f"file:{tmp_path}/disk", host_for(tmp_path), SIZE, create=True, overwrite=False)
    (tmp_path / "disk").write_bytes(b"somebody else's")
    with pytest.raises(DiskExists):
        target.finish()
    assert (tmp_path / "disk").read_bytes() == b"somebody else's"
    assert entries(tmp_path) == {"disk"}


def test_zeros_are_written_over_an_existing_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"\xff" * SIZE)
    target = open_target(f"file:{path}", host_for(tmp_path), SIZE, create=False, overwrite=False)
    target.write_zeros(5, (1 << 20) + 3)
    target.write(0, b"abc")
    target.finish()
    expected = b"abc\xff\xff" + bytes((1 << 20) + 3)
    assert_same(path.read_bytes(), expected + b"\xff" * (SIZE - len(expected)))


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"short")
    with pytest.raises(UsageError, match="has 5 bytes"):
        open_target(f"file:{tmp_path}/disk", host_for(tmp_path), SIZE, create=False, overwrite=False)


def test_only_allowed_directories_can_be_reached(tmp_path: Path) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    allowed.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"x" * 512)
    (allowed / "link").symlink_to(outside / "secret")
    (allowed / "folder").symlink_to(outside)
    host = host_for(allowed)
    for name in ("outside/secret", "allowed/link", "allowed/folder/secret"):
        with pytest.raises(DiskDenied):
            open_disk(f"file:{tmp_path}/{name}", host)
    for name in ("outside/new", "allowed/folder/new"):
        with pytest.raises(DiskDenied):
            open_target(f"file:{tmp_path}/{name}", host, SIZE, create=True, overwrite=False)
    assert entries(outside) == {"secret"}


def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    host = host_for(tmp_path)
    with pytest.raises(DiskDenied):
        open_disk(f"file:{tmp_path}/fifo", host)
    with pytest.raises(DiskDenied):
        open_disk(f"block:{tmp_path}/fifo", host)
    with pytest.raises(DiskNotFound):
        open_disk(f"file:{tmp_path}/absent", host)
