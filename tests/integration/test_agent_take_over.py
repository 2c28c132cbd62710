"""A repository that another agent serves: refused by a real agent and all that it starts, until it is taken over."""

from __future__ import annotations

import queue
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import RepositoryClaimed
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.ids import new_sid
from holdfast_agent.repository.claims import serving_host, take_over
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.specs import ReaderSpec
from lab import repositories as lab
from lab.agents import RunningAgent
from lab.one_agent import WAIT_S

OTHER = RepositoryHost(KeyPair.generate().public, "the other one")


@pytest.fixture
def claimed(agent: RunningAgent) -> Path:
    """A repository that another agent serves."""
    path = agent.roots["repository"] / "main"
    lab.create(path)
    take_over(path, OTHER)
    return path


def command(agent: RunningAgent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", "from holdfast_agent.cli.main import main; main()", "take-over", *arguments,
         "--config", str(agent.config)],
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip


def test_every_way_into_the_repository_is_shut(
    client: ControlClient, claimed: Path, pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    path = str(claimed)
    before = sorted(each for each in claimed.rglob("*") if each.is_file())
    for request in (
        m.OpenRepository(repository=path),
        m.ListPoints(repository=path),
        m.BeginSession(lease="l", repository=path, sid=new_sid()),
        m.StartMover(lease="l", mover="m", spec=ReaderSpec(task_id="t", secret=bytes(32), repository=path)),
    ):
        with pytest.raises(RepositoryClaimed, match="the other one"):
            client.call(request)
    client.call(m.CollectGarbage(lease="l", ticket="t", repository=path))
    while not isinstance(push := pushes.get(timeout=WAIT_S), m.CollectEnded):
        continue
    assert push.error is not None
    assert push.error.code == RepositoryClaimed.code
    assert sorted(each for each in claimed.rglob("*") if each.is_file()) == before


def test_take_over_while_the_agent_runs(agent: RunningAgent, client: ControlClient, claimed: Path) -> None:
    asked = command(agent, str(claimed))
    assert asked.returncode == 130
    assert "Is the agent the other one stopped for good" in asked.stdout + asked.stderr
    assert serving_host(claimed) == OTHER
    done = command(agent, str(claimed), "--yes")
    assert done.returncode == 0, done.stderr
    assert "not by the other one any more" in done.stdout
    assert isinstance(client.call(m.OpenRepository(repository=str(claimed))), m.RepositoryFacts)
    assert serving_host(claimed) == RepositoryHost(agent.public_key, agent.name)
    again = command(agent, str(claimed))
    assert again.returncode == 0
    assert "already" in again.stdout


def test_only_repositories_of_the_configuration(agent: RunningAgent, tmp_path: Path) -> None:
    lab.create(tmp_path / "elsewhere")
    denied = command(agent, str(tmp_path / "elsewhere"), "--yes")
    assert denied.returncode == 13
    assert serving_host(tmp_path / "elsewhere") is None
    missing = command(agent, str(agent.roots["repository"] / "nothing"), "--yes")
    assert missing.returncode == 10
    assert "there is no repository" in missing.stderr
