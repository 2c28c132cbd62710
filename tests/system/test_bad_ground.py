"""What fails beneath a running job: a full or read-only repository, a full restore target, damage, a disk with errors.

Each ends in a typed error with its exit code, and leaves no half point, mover, snapshot or temporary file behind.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.devices import small_file_system
from lab.installation import Installation, installed
from lab.processes import MOVER, children

MIB = 1 << 20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with one VM of 24 MiB of random data."""
    with installed(tmp_path_factory.mktemp("house")) as made:
        disk = made.vms / "vm" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(random.Random(1).randbytes(24 * MIB))
        yield made


def nothing_left(house: Installation, repository: Path) -> None:
    assert house.agent is not None
    assert children(house.agent.pid, MOVER) == [], "a mover was left running"
    left = [path for path in (house.vms / ".holdfast").iterdir() if path.is_dir()]
    assert left == [], "a frozen copy was left"
    assert list((repository / "tmp").iterdir()) == [], "a temporary file was left"
    assert list((repository / "sessions").iterdir()) == [], "a write session was left open"


def error_of(report: dict[str, Any]) -> dict[str, Any]:
    error: dict[str, Any] = report["error"]
    assert error["action"], "an error says what to do"
    return error


@contextlib.contextmanager
def repository_on(house: Installation, name: str, size_bytes: int) -> Iterator[Path]:
    """The repository ``name`` on a file system of its own of ``size_bytes``, with a job of the same name."""
    with small_file_system(house.store, size_bytes) as mounted:
        place = ("--agent", "local", "--path", mounted / name, "--create", "--no-encryption")
        house.holdfast("repository", "add", name, *place)
        house.add_job(name, "--retries", "0", repository=name, include="vm")
        try:
            yield mounted / name
        finally:
            house.holdfast("job", "remove", name)
            house.holdfast("repository", "remove", name)


def test_a_full_repository_fails_the_job_and_keeps_what_it_has(house: Installation) -> None:
    with repository_on(house, "full", 64 * MIB) as repository:
        house.run_job("full")
        (before,) = house.points("vm")
        house.vms.joinpath("vm", "disk.raw").write_bytes(random.Random(2).randbytes(60 * MIB))
        report = house.run_job("full", expect=1)
        assert error_of(report)["code"] == "repository_full"
        nothing_left(house, repository)
        assert house.points("vm") == [before]
        house.holdfast("repository", "verify", "full", "--level", "2")
        house.vms.joinpath("vm", "disk.raw").write_bytes(random.Random(1).randbytes(24 * MIB))
        house.run_job("full")


def test_a_repository_that_became_read_only_is_named_so(house: Installation) -> None:
    with repository_on(house, "frozen", 96 * MIB) as repository:
        house.run_job("frozen")
        subprocess.run(["mount", "-o", "remount,ro", repository.parent], check=True)
        try:
            report = house.run_job("frozen", expect=1)
            assert error_of(report)["code"] == "repository_read_only"
            house.holdfast("repository", "verify", "frozen", "--level", "1")
        finally:
            subprocess.run(["mount", "-o", "remount,rw", repository.parent], check=True)
        nothing_left(house, repository)
        house.run_job("frozen")


def test_a_restore_to_a_full_file_system_leaves_no_half_disk(house: Installation) -> None:
    house.add_repository("kept", encrypted=True)
    house.add_job("kept", "--retries", "0", repository="kept", include="vm")
    house.run_job("kept")
    newest = house.points("vm")[0]["sid"]
    with small_file_system(house.out, 16 * MIB) as small:
        target = small / "restored.raw"
        done = house.holdfast("restore", "disk", "--vm", "vm", "--point", newest, "--to", target, expect=1)
        assert error_of(done)["code"] == "disk_unwritable"
        assert {entry.name for entry in small.iterdir()} <= {"lost+found"}
    nothing_left(house, house.store / "kept")


def test_a_damaged_point_is_never_restored_from(house: Installation) -> None:
    """And the next backup does without it as its base."""
    house.add_repository("hurt", encrypted=True)
    house.add_job("hurt", "--retries", "0", repository="hurt", include="vm")
    house.run_job("hurt")
    sid = house.points("vm")[0]["sid"]
    point = house.store / "hurt" / "points" / sid
    content = bytearray(point.read_bytes())
    content[len(content) // 2] ^= 0x20
    point.unlink()
    point.write_bytes(content)
    target = house.out / "hurt.raw"
    house.holdfast("restore", "disk", "--vm", "vm", "--point", sid, "--to", target, expect=14)
    assert not target.exists()
    house.holdfast("repository", "verify", "hurt", "--level", "0", expect=14)
    house.run_job("hurt")
    nothing_left(house, house.store / "hurt")
