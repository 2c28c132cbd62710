"""A manager worked with from another host: real sessions through the API, and deletions by two people."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast_manager.api import contexts
from holdfast_manager.catalog.values import SessionResult, SessionState
from lab.installation import BIN, Installation, installed
from lab.ports import free_port
from lab.processes import program
from lab.services import catalogue, service
from lab.waiting import wait_until

KIB = 1 << 10


def as_ada(house: Installation, *arguments: str) -> Any:
    """The document that `holdfast --manager` prints."""
    command = [str(BIN / "holdfast"), "--manager", "office", *arguments, "--output", "json"]
    done = subprocess.run(command, env=user(house), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def user(house: Installation) -> dict[str, str]:
    """An environment in which nothing of the manager's is known."""
    return {**os.environ, "HOLDFAST_HOME": "/nonexistent", "HOLDFAST_MANAGERS": str(house.home / "managers")}


def test_sessions_outlive_the_line_and_points_go_by_two_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_MANAGERS", str(tmp_path / "managers"))
    with installed(tmp_path) as house:
        place = f"127.0.0.1:{free_port()}"
        house.manager_config.write_text(f'{house.manager_config.read_text()}[api]\nlisten = "{place}"\n')
        house.add_repository("main", encrypted=False)
        disk = house.vms / "one" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(random.Random(1).randbytes(3 << 20))
        house.add_job("slow", "--bandwidth", f"{1500 * KIB}", repository="main", include="one")
        key = contexts.add("office", place, house.key).keys.public
        house.holdfast("user", "add", "ada", "--role", "administrator", "--key", key)
        with service(house), catalogue(house) as catalog:
            command = [str(BIN / "holdfast"), "--manager", "office", "job", "run", "slow"]
            with program(command, env=user(house), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
                wait_until(
                    lambda: any(each.state is SessionState.RUNNING for each in catalog.sessions.living()), "a session"
                )
            wait_until(lambda: not catalog.sessions.living(), "the end of the session")
            (ended,) = catalog.sessions.list(job="slow")
            assert ended.result is SessionResult.SUCCESS
            assert as_ada(house, "job", "run", "slow")["result"] == "success"

            house.holdfast("job", "edit", "slow", "--keep-days", "0", "--keep-count", "1", "--keep-minimum", "1")
            house.holdfast("approval", "require")
            house.holdfast("prune", expect=13)
            (request,) = as_ada(house, "approval", "list")["requests"]
            (point,) = request["targets"]
            assert point.startswith("point ")
            house.holdfast("approval", "grant", str(request["id"]), expect=13)
            assert len(house.points("one")) == 2
            as_ada(house, "approval", "grant", str(request["id"]))
            assert len(house.holdfast("prune")["pruned"]) == 1
            assert [each["sid"] in point for each in house.points("one")] == [False]
            assert as_ada(house, "audit", "verify")["whole"]
