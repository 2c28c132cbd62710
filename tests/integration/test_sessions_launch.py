"""The process of a session is started before its session is known, and leaves nothing if none comes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from holdfast_agent.errors import NotFound
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionState
from holdfast_manager.sessions.birth import Birth, forked, new_program
from holdfast_manager.sessions.launch import SessionLauncher
from holdfast_manager.settings import ManagerSettings
from lab.processes import alive

births = pytest.mark.parametrize("birth", [new_program, forked])


def _logs(settings: ManagerSettings) -> list[str]:
    return sorted(path.name for path in settings.log_dir.iterdir())


@births
def test_no_session_no_process_and_no_log(manager_settings: ManagerSettings, birth: Birth) -> None:
    with pytest.raises(NotFound), SessionLauncher(manager_settings, birth=birth) as launcher:
        process = launcher.process
        raise NotFound(kind="job", name="nightly", advice="")
    assert not alive(process.pid)
    assert _logs(manager_settings) == []


@births
def test_a_process_whose_starter_was_killed_ends_by_itself(manager_settings: ManagerSettings, birth: Birth) -> None:
    launcher = SessionLauncher(manager_settings, birth=birth)
    os.close(launcher._pipe)  # as the kernel does for a process that is gone
    assert launcher.process.wait() == 0
    assert _logs(manager_settings) == []


@births
def test_it_takes_the_session_that_it_is_given(manager_settings: ManagerSettings, birth: Birth) -> None:
    Catalog.create(manager_settings).close()
    with SessionLauncher(manager_settings, birth=birth) as launcher:
        launcher.run(77)
    assert launcher.process.wait() != 0  # there is no such session
    assert _logs(manager_settings) == ["session-77.log"]
    assert "77" in (manager_settings.log_dir / "session-77.log").read_text()
    with Catalog.open(manager_settings) as catalog:
        assert not [each for each in catalog.sessions.list() if each.state is not SessionState.ENDED]


@births
def test_whoever_follows_is_woken_by_the_end(manager_settings: ManagerSettings, birth: Birth) -> None:
    Catalog.create(manager_settings).close()
    with SessionLauncher(manager_settings, birth=birth) as launcher:
        began = time.monotonic()
        launcher.wait(0.05)
        assert time.monotonic() - began >= 0.05  # it waits for its session
        launcher.run(77)
        launcher.wait(600)
        began = time.monotonic()
        launcher.wait(0.05)
        assert time.monotonic() - began >= 0.05  # and does not spin when it has ended
    assert launcher.process.wait() != 0


def test_a_fork_leaves_its_parent_whole(manager_settings: ManagerSettings, tmp_path: Path) -> None:
    """What the parent has open, has not yet written, or wants done at its end stays the parent's."""
    Catalog.create(manager_settings).close()
    story = tmp_path / "story"
    program = f"""
import atexit, os, sys, time
from pathlib import Path
from holdfast_manager.sessions.birth import forked
from holdfast_manager.sessions.launch import SessionLauncher
from holdfast_manager.settings import ManagerSettings

file = open({str(story)!r}, "w")
file.write("once")
atexit.register(file.write, " at the end")
sys.stdout.write("told once")
with SessionLauncher(ManagerSettings.load(), birth=forked) as launcher:
    pid = launcher.process.pid
    while os.getsid(pid) != pid:
        time.sleep(0.001)
    launcher.run(77)
    launcher.process.wait()
"""
    environment = {**os.environ, "HOLDFAST_HOME": str(manager_settings.home)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "told once", "")
    assert story.read_text() == "once at the end"


def test_a_process_with_threads_is_not_forked(manager_settings: ManagerSettings) -> None:
    """A thread may hold a lock at that moment, which nobody would release in the fork."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with SessionLauncher(manager_settings, birth=forked) as launcher:
            command = Path(f"/proc/{launcher.process.pid}/cmdline")
            while not (line := command.read_bytes()):  # for a moment between two programs a process has none
                time.sleep(0.001)
            assert b"holdfast_manager.sessions" in line
    finally:
        over.set()
        thread.join()
