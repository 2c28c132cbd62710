"""A disk that is really full: a backup fails cleanly, and the collector frees space by means of its reserve."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import RepositoryFull
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.repository import layout
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.store import FileStore
from holdfast_agent.repository.verify import verify
from lab import repositories as lab
from lab.collecting import check_points
from lab.devices import FILE_SYSTEMS, fill_up, small_file_system

DISK_BYTES = 96 << 20
BLOCKS = 64
GEOMETRY = Geometry(BLOCKS * lab.BLOCK, lab.LOG2)


@pytest.fixture(params=FILE_SYSTEMS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system with the repository and its cache on it, as on a host with one disk."""
    with small_file_system(tmp_path, DISK_BYTES, request.param) as mounted:
        yield mounted


def noise(seed: int) -> dict[int, bytes]:
    """Blocks that do not compress, so that each backup takes four MiB."""
    return {number: os.urandom(lab.BLOCK - 8) + seed.to_bytes(8, "big") for number in range(BLOCKS)}


def fill(repository: Repository) -> dict[Sid, dict[int, bytes]]:
    """Back up until the disk is full; the points that were committed."""
    points: dict[Sid, dict[int, bytes]] = {}
    while True:
        blocks = noise(len(points))
        sid = new_sid()
        try:
            lab.backup(repository, blocks, GEOMETRY, sid=sid, data_pack_bytes=1 << 20)
        except RepositoryFull:
            return points
        points[sid] = blocks


def test_the_collector_frees_space_on_a_full_disk(disk: Path) -> None:
    lab.create(disk / "repository")
    reserve = disk / "repository" / layout.RESERVE
    assert reserve.stat().st_blocks > 0
    repository = lab.open_at(disk)
    points = fill(repository)
    assert len(points) > 8
    fill_up(disk / "somebody else's")
    assert reserve.stat().st_blocks > 0
    with pytest.raises(RepositoryFull):
        FileStore(disk / "repository").create("gc/nobody's", [os.urandom(256 << 10)])
    oldest = sorted(points)[: len(points) // 2]
    for sid in oldest:
        assert repository.tombstone(sid), "pruning is how space is made"

    found = collect(repository)
    assert found.freed_bytes > len(oldest) * (3 << 20)
    assert repository.space()[1] > 16 << 20
    assert reserve.stat().st_blocks > 0, "it is set aside again for the next time"
    left = {sid: blocks for sid, blocks in points.items() if sid not in oldest}
    check_points(repository, left)
    report = verify(repository, 2, keys=lab.KEYS)
    assert report.ok, report.findings
    again = lab.backup(repository, noise(99), GEOMETRY, data_pack_bytes=1 << 20)
    assert again.sid in repository.point_sids()
    repository.close()
