"""The guest processor `ssh` with a real guest whose SSH server lets its root in by key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast_agent.errors import ConfigInvalid, GuestProcessingFailed
from holdfast_agent.model import strict
from holdfast_plugins.api import ConsistencyLevel, VmInfo, VmRef
from holdfast_plugins.guest.ssh import SshOptions, SshProcessor
from lab import guest as lab
from lab.guest_access import NoAccess
from lab.guest_writers import FileWriter, database_guest

pytestmark = pytest.mark.timeout(300)  # the first test of a fresh checkout builds the guest

VM = VmInfo(VmRef("db", "db"), ())


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Guest]:
    folder = tmp_path_factory.mktemp("guest")
    with database_guest().resume(folder) as guest:
        yield guest


@pytest.fixture(scope="module")
def writer(guest: lab.Guest) -> FileWriter:
    return FileWriter(guest)


@pytest.fixture
def options(guest: lab.Guest, tmp_path: Path) -> dict[str, Any]:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{guest.ssh_port} {guest.image.host_key}\n")
    return {
        "key_file": str(guest.image.key), "addresses": {"db": "127.0.0.1"}, "port": guest.ssh_port,
        "known_hosts_file": str(known),
    }  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_left(guest: lab.Guest, writer: FileWriter) -> Iterator[None]:
    yield
    writer.wait_goes_on()
    assert guest.agent.shell("ls -d /run/holdfast.* 2>/dev/null || true") == ""


def processor(options: dict[str, Any], **more: object) -> SshProcessor:
    return SshProcessor(strict.convert({**options, **more}, SshOptions, "test"), {})


def test_file_systems_stand_and_databases_are_held_until_the_thaw(writer: FileWriter, options: dict[str, Any]) -> None:
    handle = processor(options).freeze(VM, NoAccess(), 60)
    assert (handle.consistency, handle.shortfall) == (ConsistencyLevel.APPLICATION, "")
    assert handle.note == "2 file systems frozen, postgresql and mysql held"
    assert writer.stands()
    handle.thaw()
    handle.thaw()
    writer.wait_goes_on()


SESSION = """
import json, sys
from holdfast_plugins.api import VmInfo, VmRef
from holdfast_plugins.guest.ssh import SshOptions, SshProcessor
from lab.guest_access import NoAccess
SshProcessor(SshOptions(**json.loads(sys.argv[1])), {}).freeze(VmInfo(VmRef("db", "db"), ()), NoAccess(), 60)
print("frozen", flush=True)
sys.stdin.read()
"""


def test_a_killed_session_thaws_at_once(writer: FileWriter, options: dict[str, Any]) -> None:
    table = msgspec.json.encode({**options, "databases": [], "freeze_limit": 600}).decode()
    command = [sys.executable, "-c", SESSION, table]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == b"frozen\n"
        assert writer.stands()
        session.kill()
    writer.wait_goes_on()


def test_the_deadline_thaws_and_is_told(writer: FileWriter, options: dict[str, Any]) -> None:
    handle = processor(options, freeze_limit=3, databases=[]).freeze(VM, NoAccess(), 60)
    writer.wait_goes_on()
    with pytest.raises(GuestProcessingFailed, match="deadline passed before the snapshot"):
        handle.thaw()


def test_scripts_run_around_the_freeze_and_close_thaws(
    guest: lab.Guest, options: dict[str, Any], tmp_path: Path
) -> None:
    scripts = {}
    for phase in ("pre_freeze", "post_thaw"):
        script = tmp_path / phase
        script.write_text("#!/bin/sh -e\ntouch /can-write\necho $HOLDFAST_PHASE $HOLDFAST_VM >>/tmp/ssh-story\n")
        scripts[phase] = str(script)
    ssh = processor(options, databases=[], **scripts)
    handle = ssh.freeze(VM, NoAccess(), 60)
    assert handle.consistency is ConsistencyLevel.FILE_SYSTEM
    ssh.close()
    assert guest.agent.read("/tmp/ssh-story") == b"pre-freeze db\npost-thaw db\n"  # noqa: S108 (in the guest)


def test_a_host_key_that_is_not_known_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    with pytest.raises(GuestProcessingFailed, match=r"at ssh: .*Host key verification failed"):
        processor(options).freeze(VM, NoAccess(), 60)


def test_a_guest_that_cannot_be_reached_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(GuestProcessingFailed, match=r"at ssh: .*Connection refused"):
        processor(options, port=1).freeze(VM, NoAccess(), 60)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"key_file": "id"}, "absolute"),
        ({"address": "-oProxyCommand=x"}, "not an address"),
        ({"addresses": {"db": "a b"}}, "not an address"),
        ({"user": "-l"}, "not the name of an account"),
        ({"port": 0}, "port"),
        ({"freeze_limit": "1 h"}, "freeze_limit must be from 1 s to 600 s"),
        ({"databases": ["oracle"]}, "Invalid enum value"),
        ({"consistency": "application"}, "which is not given"),
        ({"mysql_defaults_file": "my.cnf"}, "absolute path in the guest"),
        ({"postgresql_user": "a; b"}, "not the name of an account"),
    ],
)
def test_wrong_options_are_refused(table: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigInvalid, match=reason):
        strict.convert(table, SshOptions, "test")


def test_the_name_of_a_vm_is_no_option_of_ssh() -> None:
    with pytest.raises(GuestProcessingFailed, match="is not an address"):
        SshOptions().address_of("-oProxyCommand=reboot")
