"""Changes as a dirty bitmap of QEMU tells them, against what was really written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast_agent.disks.disk import DiskExtent, changed_extents
from holdfast_agent.disks.open import open_disk
from holdfast_agent.errors import ChangeTrackingLost
from lab.disks import host_for, raw_image
from lab.qemu_storage import EXPORT, NODE, StorageDaemon, storage_daemon

MIB = 1 << 20
SIZE = 64 * MIB
GRAIN = 64 << 10


@pytest.fixture
def daemon(tmp_path: Path, qemu_nbd: str) -> Iterator[StorageDaemon]:
    """A disk of 64 MiB full of 0x11, whose bitmap "since" has begun."""
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE)], check=True)
    with storage_daemon(tmp_path, image) as daemon:
        write(daemon, f"write -P 0x11 0 {SIZE}")
        daemon.run("block-dirty-bitmap-add", node=NODE, name="since", granularity=GRAIN)
        yield daemon


def write(daemon: StorageDaemon, *commands: str) -> None:
    """Let a guest write: qemu-io's commands."""
    daemon.export(writable=True)
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-d", "unmap", "-f", "raw", *words, f"nbd+unix:///{EXPORT}?socket={daemon.socket}"], check=True
    )
    daemon.unexport()


def changes(daemon: StorageDaemon, folder: Path, bitmap: str = "since") -> list[DiskExtent]:
    disk = open_disk(f"nbd+unix:{daemon.socket}?export={EXPORT}&bitmap={bitmap}", host_for(folder))
    try:
        return list(changed_extents(disk))
    finally:
        disk.close()


def test_only_what_was_written_is_changed_and_discarded_ranges_need_no_read(
    daemon: StorageDaemon, tmp_path: Path
) -> None:
    write(daemon, f"write -P 2 {MIB} {GRAIN}", f"write -P 3 {MIB + GRAIN} 1", f"discard {9 * MIB} {2 * MIB}")
    write(daemon, f"write -P 4 {SIZE - GRAIN} {GRAIN}")
    daemon.export("since")
    assert changes(daemon, tmp_path) == [
        DiskExtent(MIB, 2 * GRAIN, data=True),
        DiskExtent(9 * MIB, 2 * MIB, data=False),
        DiskExtent(SIZE - GRAIN, GRAIN, data=True),
    ]


def test_a_bitmap_without_a_change(daemon: StorageDaemon, tmp_path: Path) -> None:
    daemon.export("since")
    assert changes(daemon, tmp_path) == []


def test_a_missing_bitmap_is_lost_tracking_and_the_disk_can_still_be_read(
    daemon: StorageDaemon, tmp_path: Path
) -> None:
    daemon.export()
    disk = open_disk(f"nbd+unix:{daemon.socket}?export={EXPORT}&bitmap=since", host_for(tmp_path))
    with pytest.raises(ChangeTrackingLost, match="has no bitmap 'since'"):
        changed_extents(disk)
    buffer = bytearray(4096)
    disk.read_into(SIZE - 4096, memoryview(buffer))
    assert buffer == b"\x11" * 4096
    assert [extent.data for extent in disk.extents()] == [True] * len(list(disk.extents()))
    disk.close()


def test_a_url_without_a_bitmap_and_a_disk_that_tracks_nothing(daemon: StorageDaemon, tmp_path: Path) -> None:
    daemon.export("since")
    for url in (f"nbd+unix:{daemon.socket}?export={EXPORT}", f"file:{raw_image(tmp_path / 'raw')}"):
        disk = open_disk(url, host_for(tmp_path))
        with pytest.raises(ChangeTrackingLost):
            changed_extents(disk)
        disk.close()


def test_extents_of_a_disk_with_a_bitmap_still_cover_it_whole(daemon: StorageDaemon, tmp_path: Path) -> None:
    write(daemon, f"write -P 2 {MIB} {GRAIN}", f"discard {9 * MIB} {2 * MIB}")
    daemon.export("since")
    disk = open_disk(f"nbd+unix:{daemon.socket}?export={EXPORT}&bitmap=since", host_for(tmp_path))
    extents = list(disk.extents())
    disk.close()
    assert sum(extent.length for extent in extents) == SIZE
    assert all(before.start + before.length == after.start for before, after in pairwise(extents))
    assert [(e.start, e.length) for e in extents if not e.data] == [(9 * MIB, 2 * MIB)]
