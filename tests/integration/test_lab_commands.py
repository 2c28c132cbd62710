"""Commands that are forked from a server behave as programs that are started."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.commands import CommandServer
from lab.installation import BIN
from lab.network import network
from lab.processes import children
from lab.waiting import wait_until

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[CommandServer]:
    made = CommandServer()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("holdfast", ["job", "list"]), ("holdfast", ["job", "lost"]), ("holdfast-agent", ["show", "--config", "none"])],
)
def test_they_print_and_end_as_the_program_does(
    server: CommandServer, tmp_path: Path, program: str, arguments: list[str]
) -> None:
    environment = {**os.environ, "HOLDFAST_HOME": str(tmp_path)}
    command = [str(BIN / program), *arguments]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    forked = server.run(command, environment, PATIENCE_S)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
    assert forked.returncode != 0


def test_one_leaves_nothing_to_the_next(server: CommandServer, tmp_path: Path) -> None:
    told = set()
    for name in "ab":
        environment = {**os.environ, "HOLDFAST_HOME": str(tmp_path / name)}
        done = server.run([str(BIN / "holdfast"), "init", "--output", "json"], environment, PATIENCE_S)
        told.add(json.loads(done.stdout)["public_key"])
        assert (tmp_path / name / "catalog.db").exists()
    assert len(told) == 2


def test_one_that_takes_too_long_is_killed(server: CommandServer, tmp_path: Path) -> None:
    program, config = str(BIN / "holdfast-agent"), ("--config", str(tmp_path / "agent.toml"))
    places = ("--proxy", str(tmp_path), "--state-dir", str(tmp_path / "state"), "--listen", "tcp://127.0.0.1:0")
    assert server.run((program, "init", *places, *config), os.environ, PATIENCE_S).returncode == 0
    with pytest.raises(subprocess.TimeoutExpired):
        server.run((program, "run", *config), os.environ, 1.0)
    wait_until(lambda: not children(server.pid), "the command's end")


def test_a_server_in_a_network_namespace_runs_them_there() -> None:
    with network(["far"]) as (far,):
        server = CommandServer(far.command())
        assert server.run([str(BIN / "holdfast"), "--version"], os.environ, PATIENCE_S).stdout
        assert Path(f"/proc/{server.pid}/ns/net").stat().st_ino != Path("/proc/self/ns/net").stat().st_ino
        server.close()
