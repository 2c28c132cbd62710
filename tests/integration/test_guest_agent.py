"""The guest processor `qemu-ga` with a real guest, its real agent, PostgreSQL and MariaDB."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import GuestProcessingFailed
from holdfast_plugins.api import ConsistencyLevel, FreezeHandle, VmInfo, VmRef
from holdfast_plugins.guest import agent_socket, qemu_agent
from holdfast_plugins.guest.agent_client import AgentClient
from holdfast_plugins.guest.agent_socket import AgentSocket
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor
from lab import guest as lab
from lab.guest_access import SocketAccess
from lab.guest_writers import MARIADB, FileWriter, database_guest, sql, start_sql_writer

pytestmark = pytest.mark.timeout(300)  # the first test of a fresh checkout builds the guest

VM = VmInfo(VmRef("db", "db"), ())
TESTS = Path(__file__).parents[1]
NEW_AGENT = "old=$(pidof qemu-ga); kill $old; while kill -0 $old 2>/dev/null; do usleep 10000; done"
"""The old one is gone when this ends; its init starts another."""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Guest]:
    folder = tmp_path_factory.mktemp("guest")
    with database_guest().resume(folder, "qcow2") as guest:
        yield guest


@pytest.fixture(scope="module")
def writer(guest: lab.Guest) -> FileWriter:
    return FileWriter(guest)


@pytest.fixture(autouse=True)
def nothing_is_left(guest: lab.Guest, writer: FileWriter) -> Iterator[None]:
    yield
    status = guest.agent.run("guest-fsfreeze-status")
    guest.agent.run("guest-fsfreeze-thaw")  # so that one failure is not that of all tests to come
    assert status == "thawed"
    writer.wait_goes_on()
    assert guest.agent.shell("ls -d /run/holdfast.* 2>/dev/null || true") == ""


def freeze(guest: lab.Guest, **options: object) -> FreezeHandle:
    return QemuAgentProcessor(GuestOptions(**options), {}).freeze(VM, SocketAccess(guest.agent.path), 60)  # type: ignore[arg-type]


def test_file_systems_stand_and_databases_are_held_until_the_thaw(guest: lab.Guest, writer: FileWriter) -> None:
    sql(guest, "mariadb", "CREATE DATABASE lab;")
    sql(guest, MARIADB, "CREATE TABLE seq (i INT);")
    start_sql_writer(guest, MARIADB)

    handle = freeze(guest)
    assert (handle.consistency, handle.shortfall) == (ConsistencyLevel.APPLICATION, "")
    assert handle.note == "2 file systems frozen, postgresql and mysql held"
    assert writer.stands()
    assert "Waiting for backup lock" in guest.ssh("mariadb -e 'SHOW PROCESSLIST'")
    handle.thaw()

    before = int(sql(guest, MARIADB, "SELECT max(i) FROM seq;")[0])
    while int(sql(guest, MARIADB, "SELECT max(i) FROM seq;")[0]) == before:
        pass  # commits go through again
    guest.agent.shell("touch /run/enough")


SESSION = """
import sys
from holdfast_plugins.api import VmInfo, VmRef
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor
from lab.guest_access import SocketAccess
vm = VmInfo(VmRef("db", "db"), ())
QemuAgentProcessor(GuestOptions(freeze_limit=4), {}).freeze(vm, SocketAccess(sys.argv[1]), 60)
print("frozen", flush=True)
sys.stdin.read()
"""


def test_a_killed_session_leaves_no_frozen_guest_and_the_next_one_freezes_again(
    guest: lab.Guest, writer: FileWriter
) -> None:
    command = [sys.executable, "-c", SESSION, str(guest.agent.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TESTS) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"frozen\n"
        assert writer.stands()
        session.kill()
    writer.wait_goes_on()
    assert guest.agent.run("guest-fsfreeze-status") == "frozen", "the agent does not know that its guard has thawed"
    handle = freeze(guest)
    assert writer.stands()
    handle.thaw()


def test_a_guest_that_was_thawed_by_its_deadline_is_told(guest: lab.Guest, writer: FileWriter) -> None:
    handle = freeze(guest, freeze_limit=3)
    writer.wait_goes_on()
    with pytest.raises(GuestProcessingFailed, match="deadline passed before the snapshot"):
        handle.thaw()
    handle.thaw()


def test_close_thaws(guest: lab.Guest, writer: FileWriter) -> None:
    processor = QemuAgentProcessor(GuestOptions(databases=()), {})
    handle = processor.freeze(VM, SocketAccess(guest.agent.path), 60)
    assert handle.consistency is ConsistencyLevel.FILE_SYSTEM
    assert writer.stands()
    processor.close()
    writer.wait_goes_on()


def test_an_agent_that_hangs_is_an_error_and_freezes_nothing(guest: lab.Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_socket, "SYNC_TIMEOUT_S", 0.5)
    guest.ssh("kill -STOP $(pidof qemu-ga)")
    try:
        with pytest.raises(GuestProcessingFailed, match=r"does not answer: .*not taken notice within 0.5 s"):
            freeze(guest)
    finally:
        guest.ssh("kill -CONT $(pidof qemu-ga)")
    guest.agent.ping()


def test_a_freeze_that_comes_too_late_is_thawed(guest: lab.Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_agent, "FREEZE_TIMEOUT_S", 0.5)
    slow = "/etc/qemu/fsfreeze-hook.d/slow"
    guest.agent.shell(f"printf '#!/bin/sh\\nsleep 2\\n' >{slow}; chmod 755 {slow}")
    try:
        with pytest.raises(GuestProcessingFailed, match=r"has not answered within 0.5 s"):
            freeze(guest)
    finally:
        guest.agent.shell(f"rm {slow}")


def test_scripts_are_put_into_the_guest_and_run_around_the_freeze(guest: lab.Guest, tmp_path: Path) -> None:
    log = "/tmp/story"  # noqa: S108 (in the guest)
    scripts = {}
    for phase in ("pre_freeze", "post_thaw"):
        script = tmp_path / phase
        script.write_text(f'#!/bin/sh -e\ntouch /can-write\necho "$HOLDFAST_PHASE $HOLDFAST_VM" >>{log}\n')
        scripts[phase] = str(script)
    handle = freeze(guest, databases=(), consistency=ConsistencyLevel.APPLICATION, **scripts)
    handle.thaw()
    assert handle.consistency is ConsistencyLevel.APPLICATION
    assert guest.agent.read(log) == b"pre-freeze db\npost-thaw db\n"

    (tmp_path / "pre_freeze").write_text("echo no such ledger >&2; exit 3")
    with pytest.raises(GuestProcessingFailed, match="pre-freeze: exit code 3; its last words: no such ledger"):
        freeze(guest, **scripts)
    assert guest.agent.read(log).endswith(b"post-thaw db\npost-thaw db\n"), "a failed freeze is undone"

    (tmp_path / "pre_freeze").write_text("exec sleep 1000")
    with pytest.raises(GuestProcessingFailed, match="stopped after 1 s"):
        freeze(guest, timeout=1, **scripts)
    assert "sleep 1000" not in guest.agent.shell("ps")


def test_a_database_that_cannot_be_held_is_a_shortfall(guest: lab.Guest, writer: FileWriter) -> None:
    handle = freeze(guest, postgresql_user="nobody", mysql_defaults_file="/absent")
    assert writer.stands()
    handle.thaw()
    assert handle.consistency is ConsistencyLevel.FILE_SYSTEM
    assert "mysql is not held: " in handle.shortfall
    assert "/absent" in handle.shortfall
    assert "postgresql is not held: /run/postgresql/.s.PGSQL.5432: " in handle.shortfall


def test_an_agent_that_may_not_start_a_guard_freezes_nothing(guest: lab.Guest) -> None:
    guest.ssh(f"sed -i 's/^exec qemu-ga/& --block-rpcs=guest-exec/' /etc/agent; {NEW_AGENT}")
    try:
        guest.agent.ping()  # the new one
        with pytest.raises(GuestProcessingFailed, match="its agent may not do guest-exec, without which"):
            freeze(guest)
    finally:
        guest.ssh(f"sed -i 's/ --block-rpcs=guest-exec//' /etc/agent; {NEW_AGENT}")
        guest.agent.ping()


def test_file_systems_are_told(guest: lab.Guest) -> None:
    told = AgentClient(AgentSocket(str(guest.agent.path), "db"), "db").file_systems()
    assert {(each.mountpoint, each.kind) for each in told} == {("/", "ext4"), ("/mnt/1", "ext4")}
