"""A running guest with databases on two disks: frozen, backed up, backed up again by its bitmaps, restored, booted."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import guest as lab
from lab.guest_writers import MARIADB, ORACLE_MYSQL, POSTGRESQL, database_guest, mysql_guest, sql, start_sql_writer
from lab.installation import Installation, installed
from lab.tools import require_tool

pytestmark = pytest.mark.timeout(300)  # the first test of a fresh checkout builds the guest

PARTITION_START = 1 << 20
MARKS = "CREATE TABLE seq (i INT); CREATE TABLE marks (mark VARCHAR(20))"
_PAIR_WRITER = (
    "(i=0; while [ ! -e /run/enough ]; do i=$((i + 1)); echo $i 1<>/mnt/1/first; echo $i 1<>/second; usleep 5000; done)"
    " >/dev/null 2>&1 & while [ ! -s /second ]; do usleep 5000; done"
)
"""What is on the one disk is the same as on the other, or one more. Neither is ever empty: nothing is truncated."""


class Databases:
    """A saved guest, and the clients of the databases in it; the last one's is of MySQL's kind."""

    def __init__(self, saved: Callable[[], lab.Saved], *clients: str) -> None:
        self.saved, self.clients = saved, clients
        self.mysql = clients[-1]

    def mark(self, guest: lab.Guest, what: str) -> None:
        for client in self.clients:
            sql(guest, client, f"INSERT INTO marks SELECT '{what}';")


@pytest.fixture
def guest(databases: Databases, tmp_path: Path) -> Iterator[lab.Guest]:
    with databases.saved().resume(tmp_path, "qcow2", "qcow2") as guest:
        sql(guest, databases.mysql.removesuffix(" lab"), "CREATE DATABASE lab;")
        for client in databases.clients:
            engine = " ENGINE=MyISAM" if client == databases.mysql else ""
            sql(guest, client, f"{MARKS}{engine};")
            start_sql_writer(guest, client)
        guest.agent.shell(_PAIR_WRITER)
        yield guest


@pytest.fixture
def house(guest: lab.Guest, tmp_path: Path) -> Iterator[Installation]:
    """With the job ``db``, which requires that the guest be quiesced."""
    with installed(tmp_path / "house") as house:
        (house.home / "scratch").mkdir()
        options = {"vms": json.dumps([f"db=unix:{guest.qmp}"]), "scratch_dir": house.home / "scratch"}
        told = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
        house.holdfast("server", "add", "qemu", "--plugin", "qemu", *told)
        house.add_repository("main", encrypted=False)
        job = ("--server", "qemu", "--include", "db", "--repository", "main", "--retries", "0")
        house.holdfast("job", "create", "db", *job, "--guest-processor", "qemu-ga", "--guest-policy", "require")
        yield house


def backup(guest: lab.Guest, databases: Databases, house: Installation, name: str) -> dict[str, Any]:
    """Run the job between two marks; the session's report."""
    databases.mark(guest, f"before {name}")
    report = house.run_job("db")
    databases.mark(guest, f"after {name}")
    return report


def restored(house: Installation, point: dict[str, Any]) -> list[Path]:
    """The images of a restored VM, the root's first."""
    return sorted((house.vms / point["sid"]).glob("*.raw"), key=lambda image: -image.stat().st_size)


def read_from(image: Path, start_bytes: int, path: str, folder: Path) -> int:
    """The number in a file of the ext4 in an image, which must be clean: nothing is left to be recovered in it."""
    part = folder / "part.raw"
    with image.open("rb") as whole, part.open("wb") as file:
        whole.seek(start_bytes)
        shutil.copyfileobj(whole, file)
    facts = run(require_tool("dumpe2fs", "e2fsprogs"), "-h", part)
    assert "needs_recovery" not in facts
    run(require_tool("e2fsck", "e2fsprogs"), "-f", "-n", part)
    return int(run(require_tool("debugfs", "e2fsprogs"), "-R", f"cat {path}", part))


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    "databases",
    [
        pytest.param(Databases(database_guest, POSTGRESQL, MARIADB), id="PostgreSQL and MariaDB"),
        pytest.param(Databases(mysql_guest, ORACLE_MYSQL), id="MySQL", marks=pytest.mark.soak),
    ],
)
def test_both_points_of_a_running_guest_hold_what_was_there_at_their_freeze(
    guest: lab.Guest, databases: Databases, house: Installation, tmp_path: Path
) -> None:
    first = backup(guest, databases, house, "first")
    second = backup(guest, databases, house, "second")
    assert {disk["mode"] for disk in second["disks"]} == {"cbt"}
    guest.agent.shell("touch /run/enough")
    last = {client: int(sql(guest, client, "SELECT max(i) FROM seq;")[0]) for client in databases.clients}
    guest.kill()

    points = house.points("db")
    assert [point["session"] for point in points] == [second["id"], first["id"]]
    assert {point["consistency"] for point in points} == {"application"}
    for point in points:
        house.holdfast("restore", "vm", "--point", point["sid"], "--server", "lab", "--name", point["sid"])
    for point in points:
        root, data = restored(house, point)
        first_written = read_from(data, 0, "/first", tmp_path)
        second_written = read_from(root, PARTITION_START, "/second", tmp_path)
        assert 0 <= first_written - second_written <= 1, "both disks are of one instant"

    disks = [lab.Disk(image) for image in restored(house, points[0])]
    folder = tmp_path / "booted"
    folder.mkdir()
    with lab.start(guest.image, folder, disks, databases.saved().hardware, boot="disk") as copy:
        copy.wait_up()
        for client in databases.clients:
            assert sql(copy, client, "SELECT mark FROM marks;") == ["before first", "after first", "before second"]
            count, end = map(int, sql(copy, client, "SELECT count(*) FROM seq; SELECT max(i) FROM seq;"))
            assert 0 < count == end < last[client], "no number is missing, and what came later is not there"
        checked = sql(copy, databases.mysql, "CHECK TABLE marks;")
        assert checked == ["lab.marks\tcheck\tstatus\tOK"], "nobody had it open"
