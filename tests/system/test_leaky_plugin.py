"""A plugin that leaves things behind at every call harms neither the session, nor what runs after it."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionResult
from holdfast_manager.sessions.birth import Birth, forked, new_program
from holdfast_manager.sessions.launch import SessionLauncher
from holdfast_manager.settings import ManagerSettings
from lab.installation import installed


@pytest.mark.parametrize("birth", [new_program, forked])
def test_a_session_with_a_plugin_that_leaks_succeeds_and_ends(
    tmp_path: Path, birth: Birth, monkeypatch: pytest.MonkeyPatch
) -> None:
    with installed(tmp_path, plugins=("lab.leaky_plugin",)) as house:
        disk = random.Random(1).randbytes(1 << 20)
        (house.vms / "web.img").write_bytes(disk)
        house.add_repository("main", encrypted=True)
        house.holdfast("server", "add", "careless", "--plugin", "leaky", "--option", f"path={house.vms}")
        house.holdfast("job", "create", "web", "--server", "careless", "--include", "*", "--repository", "main")
        command = [house.command()[0], "server", "show", "careless"]
        looked = subprocess.run(command, env=house.environment, capture_output=True, timeout=60, check=False)
        assert looked.returncode == 0, looked.stderr
        for variable in ("HOLDFAST_HOME", "HOLDFAST_CONFIG", "PYTHONPATH"):
            monkeypatch.setenv(variable, house.environment[variable])
        settings = ManagerSettings.load(house.manager_config)
        with SessionLauncher(settings, birth=birth) as launcher, Catalog.open(settings) as catalog:
            session = catalog.sessions.begin_job("web")
            launcher.run(session.id)
        assert launcher.process.wait() == 0, "its process ends, though threads of the plugin never do"
        with Catalog.open(settings) as catalog:
            assert catalog.sessions.get(session.id).result in (SessionResult.SUCCESS, SessionResult.WARNING)
        assert house.holdfast("server", "list")["servers"][0]["open_obligations"] == 0
        house.restore_disk("web.img", "latest", house.out / "web.img")
        assert (house.out / "web.img").read_bytes() == disk
