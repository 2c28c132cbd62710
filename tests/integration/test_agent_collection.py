"""Garbage collection over the real control channel: a process of its own, which ends with its lease."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import CollectionRefused, Locked, RepositoryDenied
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import new_sid
from holdfast_agent.repository.repository import Repository
from holdfast_agent.wire import messages as m
from lab import repositories as lab
from lab.agents import RunningAgent
from lab.one_agent import WAIT_S
from lab.processes import children

GEOMETRY = Geometry(8 * lab.BLOCK, lab.LOG2)


@pytest.fixture
def repository(agent: RunningAgent, tmp_path: Path) -> Iterator[Repository]:
    """Two points, the older one pruned; written past the agent, which opens it anew for every request."""
    lab.create(agent.roots["repository"] / "main")
    opened = Repository.open(agent.roots["repository"] / "main", tmp_path / "cache of the test")
    first, _ = (
        lab.backup(opened, {number: lab.block((turn, number)) for number in range(8)}, GEOMETRY) for turn in range(2)
    )
    opened.tombstone(first.sid)
    yield opened
    opened.close()


@pytest.fixture
def collect(
    agent: RunningAgent, client: ControlClient, repository: Repository, pushes: queue.Queue[m.Push | AgentLost]
) -> Callable[..., m.CollectEnded]:
    path = str(agent.roots["repository"] / "main")

    def run(ticket: str, dry_run: bool = False) -> m.CollectEnded:
        request = m.CollectGarbage(lease="l", ticket=ticket, repository=path, dry_run=dry_run)
        assert isinstance(client.call(request), m.Done)
        while not isinstance(push := pushes.get(timeout=WAIT_S), m.CollectEnded):
            assert isinstance(push, m.CollectProgress)
        assert push.ticket == ticket
        return push

    return run


def test_a_dry_run_tells_what_the_real_one_does(collect: Callable[..., m.CollectEnded], repository: Repository) -> None:
    rehearsed, done, again = collect("dry", dry_run=True), collect("real"), collect("again")
    assert rehearsed.collection is not None
    assert done.collection is not None
    assert again.collection is not None
    assert rehearsed.collection.swept_packs == done.collection.swept_packs > 0
    assert rehearsed.collection.freed_bytes == done.collection.freed_bytes > 0
    assert again.collection.swept_packs == 0
    (left,) = repository.points()
    assert lab.restore(repository, left) == {number: lab.block((1, number)) for number in range(8)}


def test_an_error_is_told(collect: Callable[..., m.CollectEnded], repository: Repository, agent: RunningAgent) -> None:
    (left,) = repository.points()
    (agent.roots["repository"] / "main" / "points" / left.sid).unlink()
    ended = collect("refused")
    assert ended.error is not None
    assert ended.error.code == CollectionRefused.code


def test_it_waits_for_a_backup_and_ends_with_its_lease(
    agent: RunningAgent, client: ControlClient, repository: Repository, pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    path = str(agent.roots["repository"] / "main")
    lock = repository.begin_session(new_sid())
    request = m.CollectGarbage(lease="l", ticket="t", repository=path)
    assert isinstance(client.call(request), m.Done)
    assert isinstance(client.call(request), m.Done), "asked twice"
    with pytest.raises(Locked):
        client.call(m.CollectGarbage(lease="l", ticket="other", repository=path))
    while True:
        push = pushes.get(timeout=WAIT_S)
        assert isinstance(push, m.CollectProgress), push
        if push.phase == "waiting":
            break
    (collector,) = children(agent.process.pid, "collector_process")
    client.call(m.StopVerification(lease="l", ticket="t"))
    while not isinstance(push := pushes.get(timeout=WAIT_S), m.CollectEnded):
        continue
    assert push.error is not None
    assert push.error.code == "cancelled"
    assert collector not in children(agent.process.pid, "collector_process")
    lock.close()
    assert isinstance(client.call(m.CollectGarbage(lease="l", ticket="next", repository=path)), m.Done)
    while not isinstance(push := pushes.get(timeout=WAIT_S), m.CollectEnded):
        continue
    assert push.collection is not None
    assert push.collection.swept_packs > 0, "it goes on where the last one was stopped"


def test_only_directories_of_the_configuration(client: ControlClient) -> None:
    with pytest.raises(RepositoryDenied):
        client.call(m.CollectGarbage(lease="l", ticket="t", repository="/etc"))
