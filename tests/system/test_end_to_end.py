"""The main path through the programs that users run: back up, change, back up again, restore, compare bit for bit."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab.contents import assert_same
from lab.installation import Installation, installed
from lab.processes import MOVER, children, program
from lab.tools import require_tool

MIB = 1 << 20
ODD_BYTES = 9 * MIB + 3 * 512
"""No multiple of the block, so that the last block is cut."""


@pytest.fixture(scope="module")
def house(disk_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation on a disk for all tests here, each with VMs, jobs and repositories of its own."""
    with installed(disk_path_factory.mktemp("house")) as made:
        made.add_repository("sealed", encrypted=True)
        made.add_repository("plain", encrypted=False)
        yield made
        assert made.agent is not None
        assert children(made.agent.pid, MOVER) == []


def _fill(path: Path, size_bytes: int, used_mib: tuple[int, ...], seed: int = 1) -> None:
    """A sparse raw image with random data in the given blocks of 1 MiB."""
    rng = random.Random(seed)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for block in used_mib:
            file.seek(block * MIB)
            file.write(rng.randbytes(min(MIB, size_bytes - block * MIB)))


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _qcow2(raw: Path, to: Path) -> None:
    qemu_img = require_tool("qemu-img", "qemu-utils")
    require_tool("qemu-nbd", "qemu-utils")
    to.parent.mkdir(exist_ok=True)
    subprocess.run([qemu_img, "convert", "-f", "raw", "-O", "qcow2", raw, to], check=True)


@pytest.mark.parametrize("repository", ["sealed", "plain"])
def test_only_the_change_travels_and_both_points_restore(house: Installation, repository: str) -> None:
    vm, job = f"main-{repository}", f"job-{repository}"
    disks = {name: house.vms / vm / name for name in ("root.raw", "data.raw")}
    _fill(disks["root.raw"], ODD_BYTES, (0, 1, 2, 5, 9), seed=1)
    _fill(disks["data.raw"], 16 * MIB, (3, 4), seed=2)
    house.add_job(job, repository=repository, include=vm)

    first = house.run_job(job)
    then = {name: path.read_bytes() for name, path in disks.items()}
    assert {disk["disk"]: disk["mode"] for disk in first["disks"]} == {
        "root.raw": "allocation",
        "data.raw": "allocation",
    }
    assert first["total"]["sent_bytes"] == 6 * MIB + ODD_BYTES % MIB

    _overwrite(disks["root.raw"], ODD_BYTES - 700, b"changed in the cut block")
    _overwrite(disks["data.raw"], 12 * MIB, b"written into a hole")
    second = house.run_job(job)
    now = {name: path.read_bytes() for name, path in disks.items()}
    assert {disk["mode"] for disk in second["disks"]} == {"digest"}
    assert second["total"]["sent_bytes"] == MIB + ODD_BYTES % MIB

    points = house.points(vm)
    assert [point["session"] for point in points] == [second["id"], first["id"]]
    for point, contents in zip(points, (now, then), strict=True):
        for name, content in contents.items():
            to = house.out / f"{point['sid']}-{name}"
            house.restore_disk(vm, point["sid"], to, "--disk", name)
            assert_same(to.read_bytes(), content)
            assert to.stat().st_blocks * 512 < to.stat().st_size, "restored without its holes"
    house.holdfast("repository", "verify", repository, "--level", "2")


def test_a_whole_vm_with_raw_and_qcow2_disks_comes_back(house: Installation, tmp_path: Path) -> None:
    _fill(house.vms / "mixed" / "a.raw", ODD_BYTES, (1, 8), seed=3)
    inside = tmp_path / "inside.raw"
    _fill(inside, 8 * MIB, (0, 6), seed=4)
    _qcow2(inside, house.vms / "mixed" / "b.qcow2")
    house.add_job("mixed", repository="sealed", include="mixed")
    house.run_job("mixed")

    house.holdfast("restore", "vm", "--vm", "mixed", "--point", "latest", "--server", "lab", "--name", "mixed-again")

    names = [vm["name"] for vm in house.holdfast("server", "show", "lab")["vms"]]
    assert "mixed" in names
    assert "mixed-again" in names
    # What was qcow2 comes back as raw: the same disk, in the form that every hypervisor reads.
    for disk, original in (("a.raw", house.vms / "mixed" / "a.raw"), ("b.raw", inside)):
        restored = house.vms / "mixed-again" / disk
        assert_same(restored.read_bytes(), original.read_bytes())
    refused = house.holdfast("restore", "vm", "--vm", "mixed", "--point", "latest", "--server", "lab", expect=2)
    assert "exists" in refused["error"]["message"]


def test_a_disk_that_is_no_longer_backed_up_is_warned_of(house: Installation) -> None:
    """Its VM has another disk, so the point is there and looks whole."""
    _fill(house.vms / "halved" / "root.raw", MIB, (0,))
    _fill(house.vms / "halved" / "data.raw", MIB, (0,), seed=2)
    house.add_job("halved", repository="plain", include="halved")
    assert house.run_job("halved")["result"] == "success"
    (house.vms / "halved" / "data.raw").rename(house.home / "data.raw")
    (house.vms / "halved" / "data.raw").symlink_to(house.home / "data.raw")
    ended = house.run_job("halved")
    (problem,) = ended["problems"]
    assert (ended["result"], problem["level"], problem["at"]) == ("warning", "warning", "inventory")
    assert "data.raw (a link: " in problem["message"]
    assert f"no longer has data.raw, which the point {house.points('halved')[1]['sid'][:8]} holds" in problem["message"]
    (house.vms / "halved" / "data.raw").unlink()
    assert house.run_job("halved")["result"] == "success"


def test_an_empty_disk_grows_and_is_filled(house: Installation) -> None:
    disk = house.vms / "growing" / "disk.raw"
    _fill(disk, 4 * MIB, ())
    house.add_job("growing", repository="plain", include="growing")
    assert house.run_job("growing")["total"]["sent_bytes"] == 0

    with disk.open("r+b") as file:
        file.truncate(ODD_BYTES)
    _overwrite(disk, ODD_BYTES - 5, b"tail!")
    assert house.run_job("growing")["total"]["sent_bytes"] == ODD_BYTES % MIB

    newest, oldest = house.points("growing")
    for point, content in ((newest, disk.read_bytes()), (oldest, bytes(4 * MIB))):
        to = house.out / f"{point['sid']}.raw"
        house.restore_disk("growing", point["sid"], to)
        assert_same(to.read_bytes(), content)


def test_only_what_failed_is_run_again_by_retry(house: Installation) -> None:
    _fill(house.vms / "fine" / "root.raw", MIB, (0,))
    (house.vms / "lost").mkdir()
    (house.vms / "lost" / "root.qcow2").write_bytes(bytes(MIB))
    house.add_job("retried", "--include", "fine", repository="plain", include="lost")
    house.holdfast("job", "retry", "retried", expect=10)
    house.holdfast("job", "run", "retried", expect=3)
    (house.vms / "lost" / "root.qcow2").rename(house.vms / "lost" / "root.raw")
    report = house.holdfast("job", "retry", "retried")
    assert [point["session"] for point in house.points("lost")] == [report["id"]]
    assert len(house.points("fine")) == 1
    house.holdfast("job", "retry", "retried", expect=2)


def test_a_job_is_kept_to_its_windows_where_that_is_asked_for(house: Installation) -> None:
    _fill(house.vms / "timed" / "root.raw", MIB, (0,))
    another_day = (datetime.now(UTC) + timedelta(days=3)).strftime("%a").lower()
    in_window = ("job", "run", "timed", "--in-window")
    house.add_job("timed", "--schedule", "daily 12:00", "--window", another_day, repository="plain", include="timed")
    refused = house.holdfast(*in_window, expect=20)
    assert refused["error"]["code"] == "outside_window" and another_day in refused["error"]["message"]
    assert house.points("timed") == []
    house.holdfast("job", "edit", "timed", "--window", "mon-sun")
    assert house.holdfast(*in_window)["result"] == "success"


def test_two_jobs_share_one_slot(tmp_path: Path) -> None:
    with installed(tmp_path, slots=1) as house:
        house.add_repository("main", encrypted=False)
        for number, name in enumerate(("one", "two")):
            _fill(house.vms / name / "disk.raw", 8 * MIB, (0, 3, 4), seed=number)
            house.add_job(name, repository="main", include=name)
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": house.environment}
        with ExitStack() as stack:
            for run in [
                stack.enter_context(program(house.command("job", "run", name), **pipes)) for name in ("one", "two")
            ]:
                _, told = run.communicate(timeout=90)
                assert run.returncode == 0, told.decode()
        sessions = house.holdfast("session", "list")["sessions"]
        assert {(session["job"], session["result"]) for session in sessions} == {("one", "success"), ("two", "success")}
        spans = [_transfer_span(house.holdfast("session", "show", str(session["id"]))) for session in sessions]
        (_, first_end), (second_begin, _) = sorted(spans)
        assert first_end <= second_begin, "two transfers at once in one slot"


def _transfer_span(report: dict) -> tuple[float, float]:  # type: ignore[type-arg]  # JSON as it comes
    step = next(step for step in report["steps"] if step["step"] == "transfer")
    return step["began"], step["began"] + step["took_s"]


def test_sessions_are_listed_and_shown_with_their_ten_steps(house: Installation) -> None:
    _fill(house.vms / "shown" / "disk.raw", 2 * MIB, (1,))
    house.add_job("shown", repository="plain", include="shown")
    ran = house.run_job("shown")

    listed = house.holdfast("session", "list", "--job", "shown")["sessions"]
    assert [(session["id"], session["result"]) for session in listed] == [(ran["id"], "success")]
    shown = house.holdfast("session", "show", str(ran["id"]))
    names = "start schedule movers rules connect inventory guest snapshot transfer commit"
    assert [step["step"] for step in shown["steps"]] == names.split()
    assert all(step["began"] is not None for step in shown["steps"])
    assert shown["load"].startswith("Source ")
    assert shown["disks"][0]["reason"] == "first backup of this disk"


def test_a_vm_that_does_not_exist_is_not_found(house: Installation) -> None:
    house.add_job("nobody", repository="plain", include="no-such-vm")
    report = house.run_job("nobody", expect=10)
    assert report["result"] == "failed"
    assert "no-such-vm" in report["error"]["message"]
    assert house.points("no-such-vm") == []


def test_a_vm_that_was_removed_keeps_no_other_from_its_backup(house: Installation) -> None:
    _fill(house.vms / "stays" / "disk.raw", MIB, (0,))
    house.add_job("staff", "--include", "left", repository="plain", include="stays")
    report = house.run_job("staff", expect=3)
    assert any("no VM 'left'" in problem["message"] for problem in report["problems"])
    assert len(house.points("stays")) == 1


def test_nothing_is_left_behind(house: Installation) -> None:
    """After a backup: no frozen copy, no temporary file, no session record."""
    _fill(house.vms / "tidy" / "disk.raw", 2 * MIB, (0,))
    house.add_job("tidy", repository="plain", include="tidy")
    house.run_job("tidy")
    assert [path for path in (house.vms / ".holdfast").iterdir() if path.is_dir()] == []
    for name in ("tmp", "sessions"):
        assert list((house.store / "plain" / name).iterdir()) == []
