"""The daemon with the movers that it is shipped with: both sides of a task on one host, from lease to commit."""

from __future__ import annotations

import os
import queue
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import Cancelled
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import new_sid
from holdfast_agent.sealing.roots import seal_point
from holdfast_agent.sealing.slots import public_slot
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.specs import BackupOrder, SourceSpec, TargetSpec
from lab.agents import RunningAgent, start_agent
from lab.repositories import DATA_KEYS, KEYS, REPOSITORY_ID, block, point_of

MANAGER = KeyPair.generate()
WAIT_S = 60.0
SECRET = os.urandom(32)
SID = new_sid()
MIB = 1 << 20


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    with start_agent(tmp_path, authorised=[MANAGER.public]) as running:
        yield running


@pytest.fixture
def pushes() -> queue.Queue[m.Push | AgentLost]:
    return queue.Queue()


@pytest.fixture
def client(agent: RunningAgent, pushes: queue.Queue[m.Push | AgentLost]) -> Iterator[ControlClient]:
    with agent.client(MANAGER, pushes.put) as connected:
        connected.call(m.RenewLease(lease="l", ttl_s=60))
        yield connected


@pytest.fixture
def movers(agent: RunningAgent, client: ControlClient) -> tuple[m.MoverStarted, m.MoverStarted]:
    """A source and a target that know of each other, with no order yet."""
    path = str(agent.roots["repository"] / "main")
    slot = m.KeySlot("first", public_slot(REPOSITORY_ID))
    client.call(m.CreateRepository(repository=path, repository_id=REPOSITORY_ID, slots=(slot,)))
    client.call(m.BeginSession(lease="l", repository=path, sid=SID))
    target = TargetSpec(task_id="t", secret=SECRET, repository=path, sid=SID, mover=1)
    listening = client.call(m.StartMover(lease="l", mover="target", spec=target))
    assert isinstance(listening, m.MoverStarted)
    assert listening.endpoints
    source = SourceSpec(task_id="t", secret=SECRET, endpoints=listening.endpoints, keys=DATA_KEYS)
    started = client.call(m.StartMover(lease="l", mover="source", spec=source))
    assert isinstance(started, m.MoverStarted)
    return started, listening


def _wait_phase(pushes: queue.Queue[m.Push | AgentLost], mover: str, *phases: str) -> m.MoverState:
    while True:
        push = pushes.get(timeout=WAIT_S)
        if isinstance(push, m.MoverChanged) and push.state.mover == mover:
            if push.state.phase in phases:
                return push.state
            assert push.state.error is None, push.state.error


def _gone(fd: int) -> bool:
    try:
        return bool(select.select([fd], [], [], WAIT_S)[0])
    finally:
        os.close(fd)


@pytest.mark.usefixtures("movers")
def test_a_backup_by_messages_alone(
    agent: RunningAgent, client: ControlClient, pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    disk = agent.roots["proxy"] / "disk.img"
    disk.write_bytes(block("a") * (MIB // len(block("a"))) + bytes(2 * MIB) + os.urandom(MIB))
    geometry = Geometry(4 * MIB)
    order = BackupOrder(geometry=geometry, disks=(f"file:{disk}",), mode=ChangeMode.FULL)
    client.call(m.BeginTransfer(lease="l", mover="source", order=order))
    ended: dict[str, m.MoverState] = {}
    while len(ended) < 2:
        push = pushes.get(timeout=WAIT_S)
        if isinstance(push, m.MoverChanged) and push.state.phase in ("done", "failed"):
            ended[push.state.mover] = push.state
    source, target = ended["source"], ended["target"]
    assert source.result is not None, source.error
    assert target.result is not None, target.error
    assert source.result.root == target.result.root
    assert source.counters.zero_bytes == 2 * MIB
    packs = list(target.result.packs)
    assert target.result.root is not None
    entry = seal_point(point_of(SID, geometry, target.result.root, packs), KEYS)
    path = str(agent.roots["repository"] / "main")
    client.call(m.CommitSession(lease="l", repository=path, entry=entry, packs=tuple(packs)))
    assert client.call(m.ListPoints(repository=path)) == m.PointList(points=(entry,), more=False)


def test_both_connect_before_any_order(
    movers: tuple[m.MoverStarted, m.MoverStarted], pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    assert movers[0].pid != movers[1].pid
    _wait_phase(pushes, "source", "connected")


def test_told_to_stop_they_clean_up_and_say_so(
    client: ControlClient, movers: tuple[m.MoverStarted, m.MoverStarted], pushes: queue.Queue[m.Push | AgentLost]
) -> None:
    watched = [os.pidfd_open(mover.pid) for mover in movers]
    client.call(m.StopMover(lease="l", mover="source", reason="the window closes"))
    error = _wait_phase(pushes, "source", "failed").error
    assert error is not None
    assert error.code == Cancelled.code
    client.call(m.CloseLease(lease="l"))
    assert all(_gone(fd) for fd in watched)


def test_a_killed_agent_leaves_none(agent: RunningAgent, movers: tuple[m.MoverStarted, m.MoverStarted]) -> None:
    watched = [os.pidfd_open(mover.pid) for mover in movers]
    agent.kill()
    assert all(_gone(fd) for fd in watched)


def test_a_lease_that_runs_out_ends_them(client: ControlClient, movers: tuple[m.MoverStarted, m.MoverStarted]) -> None:
    watched = [os.pidfd_open(mover.pid) for mover in movers]
    client.call(m.RenewLease(lease="l", ttl_s=5))
    client.close()
    assert all(_gone(fd) for fd in watched)
