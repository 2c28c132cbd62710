"""The guest processor `qemu-ga` with MySQL itself, which knows no backup stages as MariaDB does."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_plugins.api import ConsistencyLevel, FreezeHandle, VmInfo, VmRef
from holdfast_plugins.guest import deployment
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor
from lab import guest as lab
from lab.guest_access import SocketAccess
from lab.guest_writers import ORACLE_MYSQL, mysql_guest, sql, start_sql_writer

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]  # the first test of a fresh checkout builds the guest

VM = VmInfo(VmRef("db", "db"), ())
GUARD = Path(deployment.__file__).with_name("guard.sh")
PROCESSES = "mysql -e 'SHOW FULL PROCESSLIST'"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Guest]:
    with mysql_guest().resume(tmp_path_factory.mktemp("guest"), "qcow2", "qcow2") as guest:
        sql(guest, "mysql", "CREATE DATABASE lab;")
        sql(guest, ORACLE_MYSQL, "CREATE TABLE seq (i INT); CREATE TABLE busy (i INT); INSERT INTO busy VALUES (1);")
        start_sql_writer(guest, ORACLE_MYSQL)
        yield guest


def freeze(guest: lab.Guest) -> FreezeHandle:
    return QemuAgentProcessor(GuestOptions(), {}).freeze(VM, SocketAccess(guest.agent.path), 60)


def last(guest: lab.Guest) -> int:
    """The last number that the writer has committed; it is asked by SSH, for the guest may be frozen."""
    return int(guest.ssh("mysql --batch --skip-column-names -e 'SELECT max(i) FROM lab.seq'"))


def wait_goes_on(guest: lab.Guest) -> None:
    before, deadline = last(guest), time.monotonic() + 60
    while last(guest) == before:
        assert time.monotonic() < deadline, "nothing is committed any more"


def test_commits_wait_from_before_the_freeze_until_after_the_thaw(guest: lab.Guest) -> None:
    wait_goes_on(guest)
    handle = freeze(guest)
    assert (handle.consistency, handle.shortfall) == (ConsistencyLevel.APPLICATION, "")
    assert handle.note == "2 file systems frozen, mysql held"
    assert "Waiting for global read lock" in guest.ssh(PROCESSES)
    held = last(guest)
    assert last(guest) == held, "reading goes on, writing does not"
    handle.thaw()
    wait_goes_on(guest)


def test_a_query_that_takes_long_keeps_nobody_else_waiting(guest: lab.Guest) -> None:
    """FLUSH TABLES WITH READ LOCK alone would hold up all writers until the query is over."""
    (block,) = re.findall(r"block='(FLUSH .*)'", GUARD.read_text())
    guest.ssh("(mysql -e 'SELECT SLEEP(600) FROM lab.busy' >/dev/null 2>&1 &)")
    query = wait_seen(guest, "SLEEP")
    guest.ssh(f"(mysql --unbuffered -e '{block}' >/dev/null 2>&1 &)")
    wait_seen(guest, "FLUSH")
    wait_goes_on(guest)
    assert wait_seen(guest, "SLEEP") == query, "it still runs, and the guard would wait"
    guest.ssh(f"mysql -e 'KILL {query}'")
    handle = freeze(guest)
    assert handle.shortfall == ""
    handle.thaw()
    wait_goes_on(guest)


def wait_seen(guest: lab.Guest, statement: str) -> str:
    """The id of the connection whose statement begins so."""
    deadline = time.monotonic() + 60
    while not (found := re.search(rf"^(\d+)\t.*\t(SELECT )?{statement}[^\t]*$", guest.ssh(PROCESSES), re.M)):
        assert time.monotonic() < deadline, f"nobody runs {statement}"
    return found[1]
