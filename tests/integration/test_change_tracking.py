"""Change tracking end to end: a tracker plugin over QEMU's own bitmaps, real agents, and what is done when it lies."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from random import Random
from typing import Any
from zlib import crc32

import pytest

from lab.installation import Installation, installed
from lab.processes import MOVER, children
from lab.storage_plugin import BEHAVIOUR, GRAIN, QMP, Monitor
from lab.storage_vms import StorageVm
from lab.tools import require_tool
from lab.waiting import wait_until

MIB = 1 << 20
PLUGIN = "lab.storage_plugin"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("house"), plugins=(PLUGIN,)) as made:
        yield made


@pytest.fixture
def tracked(house: Installation, request: pytest.FixtureRequest) -> Iterator[Tracked]:
    with Tracked(house, f"t{crc32(request.node.name.encode())}") as vm:
        yield vm


class Tracked:
    """A VM that QEMU tracks, with a server, a repository and a job of its own; the disk has 24 MiB."""

    def __init__(self, house: Installation, name: str) -> None:
        self.house, self.name, self.chance = house, name, Random(name)
        self.vm = StorageVm(house.home / name, 24 * MIB)
        self.catalog = house.home / "manager" / "catalog.db"
        self.contents: dict[str, bytes] = {}
        self._open = ExitStack()

    def __enter__(self) -> Tracked:
        self._open.enter_context(self.vm)
        house, name = self.house, self.name
        house.holdfast("server", "add", name, "--plugin", "storage", "--option", f"path={self.vm.folder}")
        house.add_repository(name, encrypted=False)
        options = ("--server", name, "--include", "*", "--repository", name, "--block-size", "64 KiB")
        house.holdfast("job", "create", name, *options, "--retries", "0", "--keep-days", "1000")
        self.vm.scribble(self.chance, 80)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def edit(self, *options: str) -> None:
        self.house.holdfast("job", "edit", self.name, *options)

    def says(self, **behaviour: object) -> None:
        """What the tracker tells from now on; nothing: the truth."""
        (self.vm.folder / BEHAVIOUR).write_text(json.dumps(behaviour))

    def run(self, expect: int = 0, *options: str) -> dict[str, Any]:
        """Run the job; returns the line of its only disk. What the disk holds is remembered by its point."""
        content = self.vm.content()
        self.report = self.house.holdfast("job", "run", self.name, *options, expect=expect)
        for point in self.report["points"]:
            self.contents[point["sid"]] = content
        (disk,) = self.report["disks"]
        return dict(disk)

    def points(self) -> list[dict[str, Any]]:
        """Newest first."""
        listed: list[dict[str, Any]] = self.house.holdfast("point", "list", "--repository", self.name)["points"]
        return listed

    def right(self, sid: str) -> bool:
        """Whether the point restores what the disk held when it was made."""
        to = self.house.out / f"{sid}.raw"
        self.house.holdfast("restore", "disk", "--point", sid, "--to", to)
        return to.read_bytes() == self.contents[sid]


def blocks_of(touched: list[tuple[int, int]]) -> int:
    return len({n for start, length in touched for n in range(start // GRAIN, (start + length - 1) // GRAIN + 1)})


def test_a_history_of_tracked_backups_restores_bit_for_bit(tracked: Tracked) -> None:
    first = tracked.run()
    assert first["mode"] == "allocation"
    for writes in (3, 40):
        touched = tracked.vm.scribble(tracked.chance, writes)
        disk = tracked.run()
        assert disk["mode"] == "cbt" and "changes tracked since" in disk["reason"]
        assert disk["counters"]["unchanged_bytes"] == 24 * MIB - blocks_of(touched) * GRAIN
        assert disk["counters"]["read_bytes"] <= blocks_of(touched) * GRAIN
        assert (disk["counters"]["audited_blocks"], disk["counters"]["missed_blocks"]) == (64, 0)
    newest, *_, oldest = (point["sid"] for point in tracked.points())
    assert tracked.right(newest) and tracked.right(oldest)
    shown = tracked.house.holdfast("point", "show", tracked.points()[0]["sid"])["disks"][0]
    assert (shown["mode"], shown["audit"], shown["tracker"]) == ("cbt", "passed", "bitmaps")
    tracked.edit("--audit", "0")
    disk = tracked.run()
    assert disk["mode"] == "cbt" and "the audit is switched off" in disk["reason"]
    assert (disk["counters"]["read_bytes"], disk["counters"]["audited_blocks"]) == (0, 0)


def test_thousands_of_extents_that_a_tracker_names_itself(tracked: Tracked) -> None:
    tracked.run()
    touched = sorted(tracked.vm.scribble(tracked.chance, 100))
    scattered = [[start, 512] for start in range(0, 12 * MIB, 2048)]
    tracked.says(extents=sorted([*map(list, touched), *scattered]))
    disk = tracked.run()
    assert disk["mode"] == "cbt"
    assert tracked.right(tracked.points()[0]["sid"])


def test_tracking_that_is_lost_costs_a_comparison(tracked: Tracked) -> None:
    tracked.run()
    tracked.vm.scribble(tracked.chance, 10)
    with Monitor(tracked.vm.folder / QMP) as monitor:
        for name in monitor.bitmaps():
            monitor.run("block-dirty-bitmap-remove", node="disk", name=name)
    disk = tracked.run()
    assert disk["mode"] == "digest"
    assert "change tracking is lost (bitmaps: the bitmap point-" in disk["reason"]
    assert tracked.right(tracked.points()[0]["sid"])


def test_a_base_of_which_unused_areas_were_left_out_is_compared_and_never_tracked(tracked: Tracked) -> None:
    swap = tracked.house.home / "swap.raw"
    swap.write_bytes(tracked.chance.randbytes(24 * MIB))
    swap.chmod(0o600)
    subprocess.run([require_tool("mkswap", "util-linux"), "-q", swap], check=True)
    tracked.vm.fill(swap)
    tracked.edit("--skip-unused", "--audit", "100 %")
    first = tracked.run()
    assert (first["mode"], first["counters"]["unused_bytes"]) == ("allocation", 24 * MIB - GRAIN)
    assert "of swap at 0 B is unused" in first["reason"]
    second = tracked.run()
    assert second["mode"] == "digest" and "no file system needed was left out of it" in second["reason"]
    assert (second["counters"]["missed_blocks"], second["counters"]["sent_bytes"]) == (0, 0)
    point = tracked.points()[0]["sid"]
    shown = tracked.house.holdfast("point", "show", point)["disks"][0]
    assert (shown["unused_bytes"], shown["reason"]) == (24 * MIB - GRAIN, second["reason"])
    assert not tracked.right(point)
    tracked.edit("--no-skip-unused")
    assert tracked.run()["mode"] == "digest"
    assert tracked.right(tracked.points()[0]["sid"]), "bit for bit again"
    tracked.vm.scribble(tracked.chance, 5)
    last = tracked.run()
    assert (last["mode"], last["counters"]["missed_blocks"]) == ("cbt", 0)
    assert tracked.right(tracked.points()[0]["sid"])


def test_a_bitmap_that_the_mover_does_not_find_goes_by_the_jobs_policy(tracked: Tracked) -> None:
    tracked.run()
    tracked.vm.scribble(tracked.chance, 10)
    tracked.says(bitmap="of-another-life")
    tracked.edit("--on-cbt-loss", "fail")
    assert tracked.run(expect=1)["error"]["code"] == "change_tracking_lost"
    assert len(tracked.points()) == 1
    tracked.edit("--on-cbt-loss", "full")
    disk = tracked.run()
    assert disk["mode"] == "full" and "has no bitmap 'of-another-life'" in disk["reason"]
    tracked.says()  # and the failed run has cost no bitmap: what it began was merged into the one before
    tracked.vm.scribble(tracked.chance, 10)
    disk = tracked.run()
    assert disk["mode"] == "cbt", disk["reason"]
    assert tracked.right(tracked.points()[0]["sid"])


def test_a_disk_that_grew_is_compared_and_tracked_from_then_on(tracked: Tracked) -> None:
    tracked.run()
    tracked.vm.resize(30 * MIB)
    tracked.vm.write(f"write -P 7 {29 * MIB} {MIB}")
    disk = tracked.run()
    assert disk["mode"] == "digest" and f"it had {24 * MIB} bytes then" in disk["reason"]
    tracked.vm.scribble(tracked.chance, 5)
    assert tracked.run()["mode"] == "cbt"
    assert tracked.right(tracked.points()[0]["sid"])


def test_a_tracker_that_lies_is_found_out_and_the_points_on_its_word_are_suspect(tracked: Tracked) -> None:
    tracked.edit("--audit", "100%")
    tracked.run()
    tracked.vm.scribble(tracked.chance, 5)
    tracked.run()
    tracked.vm.scribble(tracked.chance, 5)
    tracked.run()
    second, first, whole = (point["sid"] for point in tracked.points())
    tracked.vm.scribble(tracked.chance, 5)
    tracked.says(extents=[])
    disk = tracked.run(4, "--strict")
    assert disk["mode"] == "digest" and "change tracking missed changes" in disk["reason"]
    assert disk["counters"]["missed_blocks"] > 0
    assert tracked.report["result"] == "warning"
    (told,) = tracked.report["problems"]
    assert told["message"].count("suspect") == 1
    assert sum("missed changes since" in line for line in tracked.report["steps"][8]["details"]) == 1
    assert first[:8] in told["message"] and second[:8] in told["message"] and whole[:8] not in told["message"]
    mended = tracked.points()[0]["sid"]
    assert {point["sid"]: point["state"] for point in tracked.points()} == {
        mended: "ok", second: "suspect", first: "suspect", whole: "ok",
    }  # fmt: skip
    assert tracked.right(mended)
    text = tracked.house.holdfast("point", "show", second)["point"]["doubt"]
    assert "change tracking of disk disk had missed changes" in text

    # What an audit found no verification clears, and a catalogue that was lost learns it from the points again.
    tracked.house.holdfast("repository", "verify", tracked.name, "--level", "2")
    assert [point["state"] for point in tracked.points()] == ["ok", "suspect", "suspect", "ok"]
    with closing(sqlite3.connect(tracked.catalog)) as catalog, catalog:
        catalog.execute("DELETE FROM points WHERE repository = ?", (tracked.name,))
    tracked.house.holdfast("repository", "rescan", tracked.name)
    assert [point["state"] for point in tracked.points()] == ["ok", "suspect", "suspect", "ok"]

    tracked.says()
    tracked.vm.scribble(tracked.chance, 5)
    disk = tracked.run()
    assert disk["mode"] == "cbt" and disk["counters"]["missed_blocks"] == 0
    assert tracked.right(tracked.points()[0]["sid"])


def test_a_point_that_was_read_whole_stands_though_tracking_lied_since(tracked: Tracked) -> None:
    tracked.edit("--audit", "100%")
    tracked.run()
    tracked.vm.scribble(tracked.chance, 5)
    tracked.says(extents=[])
    assert tracked.run()["mode"] == "digest"
    (told,) = tracked.report["problems"]
    assert "that point stands" in told["message"]
    assert [point["state"] for point in tracked.points()] == ["ok", "ok"]
    assert all(tracked.right(sid) for sid in tracked.contents)


def slow_and_lied_to(tracked: Tracked) -> tuple[int, int]:
    """A run whose audit has found its tracker out, and whose comparison takes long: its session and process."""
    tracked.edit("--audit", "100%")
    tracked.run()
    tracked.vm.scribble(tracked.chance, 5)
    tracked.run()
    for start in range(0, 24 * MIB, MIB):
        tracked.vm.write(f"write -s /dev/urandom {start} {MIB}")
    tracked.says(extents=[])
    tracked.edit("--bandwidth", "100 KiB", "--retries", "1", "--retry-pause", "0")
    session = tracked.house.holdfast("job", "run", tracked.name, "--detach")["session"]
    wait_until(lambda: "suspect" in [point["state"] for point in tracked.points()], "a suspect point")
    wait_until(lambda: "ChangesMissed" in _kinds(tracked, session), "the finding")
    with closing(sqlite3.connect(tracked.catalog)) as connection:
        (process,) = connection.execute("SELECT process FROM sessions WHERE id = ?", (session,)).fetchone()
    return session, int(json.loads(process)["pid"])


def test_what_was_found_out_outlives_the_session_that_found_it(tracked: Tracked) -> None:
    """Killed between the finding and the point that makes it good: the next run does not believe the tracker again."""
    session, process = slow_and_lied_to(tracked)
    os.kill(process, signal.SIGKILL)
    tracked.edit("--reset", "bandwidth", "--audit", "0")
    disk = tracked.run()
    assert session < tracked.report["id"]
    assert disk["mode"] == "digest" and "is suspect" in disk["reason"]
    assert [point["state"] for point in tracked.points()] == ["ok", "suspect", "ok"]
    assert tracked.right(tracked.points()[0]["sid"])


def test_what_was_found_out_outlives_the_movers_that_found_it(tracked: Tracked) -> None:
    """The retry in the same session compares the disk, whatever the next sample would have been."""
    session, _process = slow_and_lied_to(tracked)
    assert tracked.house.agent is not None
    for mover in children(tracked.house.agent.pid, MOVER):
        with suppress(ProcessLookupError):  # one ends when the other does
            os.kill(mover, signal.SIGKILL)
    wait_until(lambda: _kinds(tracked, session).count("TransferBegan") == 2, "the second attempt")
    shown = tracked.house.holdfast("session", "show", str(session))
    tracked.house.holdfast("session", "stop", str(session))
    (disk,) = shown["disks"]
    assert (disk["attempt"], disk["mode"]) == (2, "digest")
    assert "an audit found changes that tracking had missed" in disk["reason"]
    wait_until(lambda: tracked.house.holdfast("session", "show", str(session))["state"] == "ended", "its end")


def _kinds(tracked: Tracked, session: int) -> list[str]:
    with closing(sqlite3.connect(tracked.catalog)) as connection:
        return [kind for (kind,) in connection.execute("SELECT kind FROM events WHERE session = ?", (session,))]
