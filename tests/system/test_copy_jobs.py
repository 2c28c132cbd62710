"""Jobs that copy restore points: run by the service for each new point, killed, gone on with, ruled by a retention."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_manager.catalog.values import SessionKind, SessionResult
from lab.installation import Installation, installed
from lab.services import catalogue, service
from lab.waiting import wait_until

MIB = 1 << 20
BLOCKS = 6


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Backups of the VM `web` go to `near`, which has one key; copies to `far`, which has another."""
    with installed(tmp_path_factory.mktemp("house")) as made:
        for name in ("near", "far"):
            made.add_repository(name, encrypted=True)
        (made.vms / "web").mkdir()
        change(made.vms / "web" / "disk.raw", *range(BLOCKS))
        made.add_job("nightly", repository="near", include="web")
        made.add_job("others", repository="near", include="web")
        yield made


def change(disk: Path, *blocks: int) -> bytes:
    """New random data in these blocks; the disk as it then is."""
    disk.touch()
    with disk.open("r+b") as file:
        for block in blocks:
            file.seek(block * MIB)
            file.write(random.randbytes(MIB))
    return disk.read_bytes()


def test_each_point_is_copied_when_it_is_there_also_by_a_session_that_is_killed(house: Installation) -> None:
    disk = house.vms / "web" / "disk.raw"
    contents = [disk.read_bytes()]
    house.holdfast(
        "job", "create", "offsite", "--copy-from", "near", "--repository", "far", "--copy-job", "night*",
        "--immediate", "--session-retry-pause", "1 s", "--bandwidth", "1 MiB", "--keep-days", "0",
        "--keep-count", "2", "--keep-minimum", "1",
    )  # fmt: skip
    with catalogue(house) as catalog, service(house):

        def copies(result: SessionResult) -> list[int]:
            return [each.id for each in catalog.sessions.list(job="offsite") if each.result is result]

        def copied(count: int) -> None:
            wait_until(lambda: len(catalog.points.list(repository="far")) == count, f"{count} copies")
            wait_until(lambda: not catalog.sessions.living(), "the end of all sessions")

        house.run_job("others")
        house.run_job("nightly")
        (begun,) = wait_until(lambda: copies(SessionResult.NONE), "a copy")
        wait_until(lambda: any(task.counters.sent_bytes for task in catalog.tasks.list(begun)), "a transfer")
        os.kill(catalog.sessions.get(begun).process.pid, signal.SIGKILL)
        house.holdfast("job", "edit", "offsite", "--reset", "bandwidth")
        copied(1)
        assert (copies(SessionResult.FAILED), len(copies(SessionResult.SUCCESS))) == ([begun], 1)

        for block in (2, 4):
            contents.append(change(disk, block))
            report = house.run_job("nightly")
            wait_until(lambda: len(copies(SessionResult.SUCCESS)) == len(contents), "one more copy")
            assert report["result"] == "success"
        wait_until(lambda: not catalog.sessions.living(), "the end of all sessions")
        last = house.holdfast("session", "show", str(copies(SessionResult.SUCCESS)[0]))
        assert (last["kind"], last["job"]) == (SessionKind.COPY.value, "offsite")
        assert last["total"]["sent_bytes"] == MIB, "only what changed travels"
        kept = sorted(catalog.points.list(repository="far"), key=lambda row: row.created)
        originals = {row.sid for row in catalog.points.list(repository="near", job="nightly")}
    assert [row.job for row in kept] == ["offsite"] * 2, "by its own retention"
    assert {row.origin.sid for row in kept if row.origin is not None} < originals
    assert len(originals) == 3, "that of the originals is another"
    for row, content in zip(kept, contents[1:], strict=True):
        to = house.out / f"{row.sid}.raw"
        house.restore_disk("web", row.sid, to)
        assert to.read_bytes() == content
    assert house.run_job("offsite")["points"] == [], "what was pruned, or would be at once, is not copied again"
