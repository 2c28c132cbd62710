"""The process of a session is started before its session is known, and leaves nothing if none comes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from holdfast_agent.errors import NotFound
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionState
from holdfast_manager.sessions.launch import SessionLauncher
from holdfast_manager.settings import ManagerSettings
from lab.processes import alive


def _logs(settings: ManagerSettings) -> list[str]:
    return sorted(path.name for path in settings.log_dir.iterdir())


def test_no_session_no_process_and_no_log(manager_settings: ManagerSettings) -> None:
    with pytest.raises(NotFound), SessionLauncher(manager_settings) as launcher:
        process = launcher._process
        raise NotFound(kind="job", name="nightly", advice="")
    assert not alive(process.pid)
    assert _logs(manager_settings) == []


def test_a_process_whose_starter_was_killed_ends_by_itself(manager_settings: ManagerSettings) -> None:
    launcher = SessionLauncher(manager_settings)
    assert launcher._process.stdin is not None
    launcher._process.stdin.close()  # as the kernel does for a process that is gone
    assert launcher._process.wait(30) == 0
    assert _logs(manager_settings) == []


def test_it_takes_the_session_that_it_is_given(manager_settings: ManagerSettings, tmp_path: Path) -> None:
    Catalog.create(manager_settings).close()
    with SessionLauncher(manager_settings) as launcher:
        launcher.run(77)
    assert launcher._process.wait(30) != 0  # there is no such session
    assert _logs(manager_settings) == ["session-77.log"]
    assert "77" in (manager_settings.log_dir / "session-77.log").read_text()
    with Catalog.open(manager_settings) as catalog:
        assert not [each for each in catalog.sessions.list() if each.state is not SessionState.ENDED]


def test_whoever_follows_is_woken_by_the_end(manager_settings: ManagerSettings) -> None:
    Catalog.create(manager_settings).close()
    with SessionLauncher(manager_settings) as launcher:
        began = time.monotonic()
        launcher.wait(0.05)
        assert time.monotonic() - began >= 0.05  # it waits for its session
        launcher.run(77)
        launcher.wait(60)
        assert time.monotonic() - began < 50
        began = time.monotonic()
        launcher.wait(0.05)
        assert time.monotonic() - began >= 0.05  # and does not spin when it has ended
    assert launcher._process.wait(30) != 0
