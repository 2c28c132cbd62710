"""The process of a session is started before its session is known, and leaves nothing if none comes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from holdfast_agent.errors import NotFound
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionState
from holdfast_manager.nursery import door
from holdfast_manager.service.nursery import Nursery
from holdfast_manager.sessions.birth import Birth, Foundling, Process, forked, loaded, new_program
from holdfast_manager.sessions.launch import SessionLauncher
from holdfast_manager.settings import ManagerSettings
from lab.processes import alive
from lab.waiting import wait_until


@pytest.fixture(params=[new_program, forked, loaded])
def birth(
    request: pytest.FixtureRequest, manager_settings: ManagerSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Birth]:
    """Each of the ways; for :func:`loaded` with a nursery, of which pytest's own search path must not keep it."""
    with Catalog.create(manager_settings) as catalog:
        if request.param is not loaded:
            yield request.param
            return
        tell = [sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"]
        monkeypatch.setattr(sys, "path", ["", *json.loads(subprocess.check_output(tell))])
        with contextlib.ExitStack() as cleanup:

            def born_there(given: int, log: int, environment: Mapping[str, str]) -> Process:
                nursery = Nursery(manager_settings, catalog, None)  # pytest changes its environment before each test
                cleanup.callback(nursery.close)
                nursery.look()
                wait_until(lambda: _listens(manager_settings.home), "a nursery")
                process = loaded(given, log, environment)
                assert isinstance(process, Foundling)
                return process

            yield born_there


def _listens(home: Path) -> bool:
    with contextlib.suppress(OSError), door.connect(home):
        return True
    return False


def _logs(settings: ManagerSettings) -> list[str]:
    return sorted(path.name for path in settings.log_dir.iterdir())


def test_no_session_no_process_and_no_log(manager_settings: ManagerSettings, birth: Birth) -> None:
    with pytest.raises(NotFound), SessionLauncher(manager_settings, birth=birth) as launcher:
        process = launcher.process
        raise NotFound(kind="job", name="nightly", advice="")
    assert not alive(process.pid)
    assert _logs(manager_settings) == []


def test_a_process_whose_starter_was_killed_ends_by_itself(manager_settings: ManagerSettings, birth: Birth) -> None:
    launcher = SessionLauncher(manager_settings, birth=birth)
    os.close(launcher._pipe)  # as the kernel does for a process that is gone
    launcher.process.wait()
    assert _logs(manager_settings) == []


def test_it_takes_the_session_that_it_is_given(manager_settings: ManagerSettings, birth: Birth) -> None:
    with SessionLauncher(manager_settings, birth=birth) as launcher:
        launcher.run(77)
    launcher.process.wait()  # there is no such session
    assert _logs(manager_settings) == ["session-77.log"]
    assert "77" in (manager_settings.log_dir / "session-77.log").read_text()
    with Catalog.open(manager_settings) as catalog:
        assert not [each for each in catalog.sessions.list() if each.state is not SessionState.ENDED]


def test_whoever_follows_is_woken_by_the_end(manager_settings: ManagerSettings, birth: Birth) -> None:
    with SessionLauncher(manager_settings, birth=birth) as launcher:
        began = time.monotonic()
        launcher.wait(0.05)
        assert time.monotonic() - began >= 0.05  # it waits for its session
        launcher.run(77)
        launcher.wait(600)
        began = time.monotonic()
        launcher.wait(0.05)
        assert time.monotonic() - began >= 0.05  # and does not spin when it has ended
    launcher.process.wait()


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
