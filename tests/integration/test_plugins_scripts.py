"""The guest processor `scripts` with real scripts and a real guard process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import ConfigInvalid, GuestProcessingFailed
from holdfast_agent.model import strict
from holdfast_plugins.api import ConsistencyLevel, VmInfo, VmRef
from holdfast_plugins.guest.scripts import ScriptsOptions, ScriptsProcessor
from lab.guest_access import NoAccess
from lab.processes import alive
from lab.waiting import wait_until

VM = VmInfo(VmRef("web", "web"), ())


class Guest:
    """Scripts that write down what they do; ``story`` tells it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        os.mkfifo(directory / "signal")
        self._signal = os.open(directory / "signal", os.O_RDWR | os.O_NONBLOCK)

    def close(self) -> None:
        os.close(self._signal)

    def script(self, name: str, then: str = "") -> str:
        path = self.directory / name
        note = f'echo "$HOLDFAST_PHASE $HOLDFAST_VM" >> {self.log}'
        path.write_text(f"#!/bin/sh\n{note}\necho done > {self.directory}/signal\n{then}\n")
        path.chmod(0o700)
        return str(path)

    def wait_script(self, timeout_s: float = 60.0) -> None:
        """Until one more script has written its line."""
        ready, _, _ = select.select([self._signal], [], [], timeout_s)
        assert ready, "no script ran in time"
        os.read(self._signal, 5)

    @property
    def story(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.close()


def processor(guest: Guest, freeze: str = "", thaw: str = "", **options: object) -> ScriptsProcessor:
    table = {"pre_freeze": guest.script("freeze", freeze), "post_thaw": [guest.script("thaw", thaw)], **options}
    return ScriptsProcessor(strict.convert(table, ScriptsOptions, "test"), {})


def test_scripts_run_around_the_snapshot_and_thaw_is_idempotent(guest: Guest) -> None:
    handle = processor(guest, consistency="application").freeze(VM, NoAccess(), deadline_s=60)
    assert guest.story == ["pre-freeze web"]
    assert handle.consistency is ConsistencyLevel.APPLICATION
    handle.thaw()
    handle.thaw()
    assert guest.story == ["pre-freeze web", "post-thaw web"]


def test_failed_freeze_thaws_and_tells_the_last_words(guest: Guest) -> None:
    with pytest.raises(GuestProcessingFailed, match=r"pre-freeze: exit code 3; its last words: first \| no database"):
        processor(guest, freeze="echo first; echo no database >&2; exit 3").freeze(VM, NoAccess(), deadline_s=60)
    assert guest.story == ["pre-freeze web", "post-thaw web"]


def test_missing_script_is_told_by_name(tmp_path: Path) -> None:
    options = ScriptsOptions(pre_freeze=str(tmp_path / "absent"))
    with pytest.raises(GuestProcessingFailed, match="absent could not be started: No such file"):
        ScriptsProcessor(options, {}).freeze(VM, NoAccess(), deadline_s=60)


def test_failed_thaw_is_an_error_but_only_once(guest: Guest) -> None:
    handle = processor(guest, thaw="exit 7").freeze(VM, NoAccess(), deadline_s=60)
    with pytest.raises(GuestProcessingFailed, match="post-thaw: exit code 7"):
        handle.thaw()
    handle.thaw()


def test_script_that_hangs_is_stopped_with_its_children(guest: Guest) -> None:
    child = guest.directory / "child"
    hang = f"sleep 1000 & echo $! > {child}; wait"
    with pytest.raises(GuestProcessingFailed, match=r"stopped after 1 s"):
        processor(guest, freeze=hang, timeout=1).freeze(VM, NoAccess(), deadline_s=60)
    wait_until(lambda: not alive(int(child.read_text())), "the end of the script's child")


def test_helper_left_running_by_the_freeze_does_not_block_it(guest: Guest) -> None:
    """A database session that holds a lock stays in the background with the script's output open."""
    child = guest.directory / "child"
    handle = processor(guest, freeze=f"sleep 1000 & echo $! > {child}").freeze(VM, NoAccess(), deadline_s=60)
    assert alive(int(child.read_text()))
    os.kill(int(child.read_text()), signal.SIGKILL)
    handle.thaw()


def test_deadline_thaws_without_anybody_asking(guest: Guest) -> None:
    handle = processor(guest).freeze(VM, NoAccess(), deadline_s=0.05)
    guest.wait_script()
    guest.wait_script()
    assert guest.story == ["pre-freeze web", "post-thaw web"]
    with pytest.raises(GuestProcessingFailed, match="deadline passed"):
        handle.thaw()
    assert guest.story == ["pre-freeze web", "post-thaw web"]


def test_close_thaws(guest: Guest) -> None:
    scripts = processor(guest)
    scripts.freeze(VM, NoAccess(), deadline_s=60)
    scripts.close()
    assert guest.story == ["pre-freeze web", "post-thaw web"]


def test_killed_guard_is_replaced_by_the_session(guest: Guest) -> None:
    handle = processor(guest, freeze=f"echo $PPID > {guest.directory}/guard").freeze(VM, NoAccess(), deadline_s=60)
    os.kill(int((guest.directory / "guard").read_text()), signal.SIGKILL)
    with pytest.raises(GuestProcessingFailed, match="died"):
        handle.thaw()
    assert guest.story == ["pre-freeze web", "post-thaw web"]


SESSION = """
import sys, msgspec
from holdfast_plugins.api import VmInfo, VmRef
from holdfast_plugins.guest.scripts import ScriptsOptions, ScriptsProcessor
options = msgspec.convert({"pre_freeze": sys.argv[1], "post_thaw": sys.argv[2]}, ScriptsOptions)
handle = ScriptsProcessor(options, {}).freeze(VmInfo(VmRef("web", "web"), ()), None, 600)
print("frozen", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("moment", ["while frozen", "while freezing"])
def test_killed_session_leaves_no_frozen_guest(guest: Guest, moment: str) -> None:
    freezing = moment == "while freezing"
    scripts = [guest.script("freeze", "exec sleep 1000" if freezing else ""), guest.script("thaw")]
    command = [sys.executable, "-c", SESSION, *scripts]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        guest.wait_script()
        if not freezing:
            assert session.stdout.readline() == b"frozen\n"
        session.kill()
    guest.wait_script()
    assert guest.story == ["pre-freeze web", "post-thaw web"]


def test_environment_has_no_secret_of_the_manager(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_PASSPHRASE", "secret")
    seen = guest.directory / "env"
    processor(guest, freeze=f"env > {seen}").freeze(VM, NoAccess(), deadline_s=60).thaw()
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert {name for name in names if name.startswith("HOLDFAST_")} == {"HOLDFAST_VM", "HOLDFAST_PHASE"}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({}, "give pre_freeze"),
        ({"pre_freeze": "freeze.sh"}, "absolute"),
        ({"pre_freeze": "/x", "timeout": "soon"}, "not a duration"),
        ({"pre_freeze": "/x", "timeout": 0}, "more than 0 s"),
        ({"pre_freeze": "/x", "consistency": "perfect"}, "Invalid enum value"),
    ],
)
def test_wrong_options_are_refused(table: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigInvalid, match=reason):
        strict.convert(table, ScriptsOptions, "test")
