"""Mover processes under the real daemon: started, ordered, told of, stopped, and gone in every case.

The mover is a small real program (lab.mover_child); what real movers do is tested with the movers.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import (
    ConnectionLost,
    LeaseUnknown,
    Locked,
    MoverDied,
    NotFound,
    RepositoryDenied,
    SessionUnknown,
    UsageError,
)
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import Sid, new_sid
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.specs import BackupOrder, ReaderSpec, SourceSpec, TargetSpec
from lab import mover_child
from lab.agents import RunningAgent, start_agent
from lab.processes import children

CHILD = (sys.executable, "-P", mover_child.__file__)
MANAGER = KeyPair.generate()
WAIT_S = 60.0
SECRET = b"the secret of this task: 32 byte"
ORDER = BackupOrder(geometry=Geometry(4096), disks=("file:/x",), mode=ChangeMode.FULL)


class Pushes(queue.Queue[m.Push | AgentLost]):
    """What the agent tells, in order."""

    def state(self, mover: str, *phases: str) -> m.MoverState:
        """Wait for the next state of the mover that is one of these phases."""
        while True:
            push = self.get(timeout=WAIT_S)
            if isinstance(push, m.MoverChanged) and push.state.mover == mover and push.state.phase in phases:
                return push.state


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    with start_agent(tmp_path, authorised=[MANAGER.public], mover_command=CHILD) as running:
        yield running


@pytest.fixture
def pushes() -> Pushes:
    return Pushes()


@pytest.fixture
def client(agent: RunningAgent, pushes: Pushes) -> Iterator[ControlClient]:
    with agent.client(MANAGER, pushes.put) as connected:
        connected.call(m.RenewLease(lease="l", ttl_s=60))
        yield connected


def _source(task: str) -> SourceSpec:
    keys = DataKeys(repository_id="0" * 32, id_key=bytes(32), enc_key=bytes(32), epoch=0, cipher=0)
    return SourceSpec(task_id=task, secret=SECRET, endpoints=("tcp://127.0.0.1:1",), keys=keys)


def _reader(agent: RunningAgent, task: str) -> ReaderSpec:
    return ReaderSpec(task_id=task, secret=SECRET, repository=str(agent.roots["repository"] / "r"))


def _start(client: ControlClient, spec: SourceSpec | TargetSpec | ReaderSpec, mover: str = "m") -> m.MoverStarted:
    reply = client.call(m.StartMover(lease="l", mover=mover, spec=spec))
    assert isinstance(reply, m.MoverStarted)
    return reply


def _states(client: ControlClient) -> list[tuple[str, str]]:
    reply = client.call(m.ListMovers(lease="l"))
    assert isinstance(reply, m.MoverList)
    return [(state.mover, state.phase) for state in reply.movers]


class Watched:
    """A process that is watched from now on, so that its number cannot come to mean another."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def wait_gone(self, timeout_s: float = WAIT_S) -> bool:
        try:
            return bool(select.select([self._fd], [], [], timeout_s)[0])
        finally:
            os.close(self._fd)


def test_from_start_to_end(client: ControlClient, pushes: Pushes) -> None:
    started = _start(client, _source("plain"))
    assert started.endpoints == ()
    process = Watched(started.pid)
    client.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
    assert pushes.state("m", "connected").task_id == "plain"
    assert pushes.state("m", "transferring").counters.size_bytes == 4096
    done = pushes.state("m", "done", "failed")
    assert done.phase == "done"
    assert done.result is not None
    assert done.result.used_disk == "file:/x"
    assert process.wait_gone()
    assert _states(client) == [("m", "done")]


def test_a_listening_mover_is_answered_with_its_endpoints(agent: RunningAgent, client: ControlClient) -> None:
    started = _start(client, _reader(agent, "plain"))
    assert started.endpoints == ("tcp://127.0.0.1:1",)
    assert _start(client, _reader(agent, "plain")) == started  # asked twice: one process
    client.call(m.ChangeRules(lease="l", mover="m", rules=TransferRules()))
    process = Watched(started.pid)
    client.call(m.StopMover(lease="l", mover="m", reason="enough"))
    assert process.wait_gone(0)  # the reply comes when it is gone
    client.call(m.StopMover(lease="l", mover="m", reason="enough"))
    client.call(m.StopMover(lease="l", mover="never", reason="enough"))


def test_a_prepared_mover_is_the_one_that_is_started(client: ControlClient, pushes: Pushes) -> None:
    prepare = m.PrepareMover(lease="l", mover="m", task_id="plain")
    client.call(prepare)
    client.call(prepare)  # asked twice: one process
    assert _states(client) == [("m", "starting")]
    with pytest.raises(UsageError):
        client.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
    started = _start(client, _source("plain"))
    assert _start(client, _source("plain")) == started
    client.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
    assert pushes.state("m", "done", "failed").phase == "done"


def test_a_prepared_mover_that_is_not_needed_ends_with_the_lease(agent: RunningAgent, client: ControlClient) -> None:
    client.call(m.PrepareMover(lease="l", mover="m", task_id="plain"))
    (child,) = children(agent.process.pid)
    process = Watched(child)
    client.call(m.CloseLease(lease="l"))
    assert process.wait_gone()


def test_a_prepared_mover_that_died_fails_its_start(agent: RunningAgent, client: ControlClient) -> None:
    client.call(m.PrepareMover(lease="l", mover="m", task_id="plain"))
    (child,) = children(agent.process.pid)
    process = Watched(child)
    os.kill(child, signal.SIGKILL)
    assert process.wait_gone()
    with pytest.raises(MoverDied):
        while True:  # until the agent has seen it
            _start(client, _source("plain"))
            assert _states(client) in ([("m", "starting")], [("m", "failed")])


def test_what_a_mover_inherits(client: ControlClient, pushes: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    _start(client, _source("facts"))
    client.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
    result = pushes.state("m", "done").result
    assert result is not None
    facts = json.loads(result.used_disk)
    assert SECRET.decode() not in result.used_disk
    assert facts["argv"] == [mover_child.__file__]
    assert facts["fds"] == [0, 1, 2]
    assert facts["session_fd"] is None
    assert facts["leads_group"]
    assert facts["cwd"] == "/"
    assert "NOTIFY_SOCKET" not in facts["env"]
    assert {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"} <= facts["env"].keys()


def test_only_one_order(client: ControlClient, pushes: Pushes) -> None:
    _start(client, _source("plain"))
    client.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
    with pytest.raises(UsageError, match="order already"):
        client.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
    with pytest.raises(NotFound):
        client.call(m.BeginTransfer(lease="l", mover="other", order=ORDER))
    pushes.state("m", "done")


@pytest.mark.parametrize("task", ["dies", "garbage", "flood"])
def test_a_mover_that_breaks_is_reported_and_reaped(client: ControlClient, pushes: Pushes, task: str) -> None:
    process = Watched(_start(client, _source(task)).pid)
    error = pushes.state("m", "failed").error
    assert error is not None
    assert error.code == {"dies": "mover_died", "garbage": "malformed_message", "flood": "message_too_large"}[task]
    assert error.retryable == (task == "dies")
    assert process.wait_gone()


def test_a_mover_that_never_listens_fails_its_start(agent: RunningAgent, client: ControlClient) -> None:
    with pytest.raises(MoverDied, match="exit code 3"):
        _start(client, _reader(agent, "dies"))


def test_a_killed_mover_is_reported(client: ControlClient, pushes: Pushes) -> None:
    os.kill(_start(client, _source("plain")).pid, 9)
    error = pushes.state("m", "failed").error
    assert error is not None
    assert error.code == MoverDied.code
    assert "SIGKILL" in error.message


def test_closing_a_lease_stops_its_movers_before_it_answers(agent: RunningAgent, client: ControlClient) -> None:
    processes = [Watched(_start(client, _reader(agent, "plain"), name).pid) for name in ("a", "b")]
    client.call(m.CloseLease(lease="l"))
    assert all(process.wait_gone(0) for process in processes)
    with pytest.raises(LeaseUnknown):
        client.call(m.ListMovers(lease="l"))
    client.call(m.CloseLease(lease="l"))


def test_a_lease_that_runs_out_stops_its_movers(agent: RunningAgent, client: ControlClient) -> None:
    process = Watched(_start(client, _reader(agent, "plain")).pid)
    client.call(m.RenewLease(lease="l", ttl_s=5))
    client.close()
    assert process.wait_gone()
    with agent.client(MANAGER) as again, pytest.raises(LeaseUnknown):
        again.call(m.ListMovers(lease="l"))


def test_a_revoked_manager_loses_its_movers(agent: RunningAgent, client: ControlClient) -> None:
    process = Watched(_start(client, _reader(agent, "plain")).pid)
    agent.revoke(MANAGER.public)
    assert process.wait_gone()


def test_a_manager_that_comes_back_adopts_its_movers(agent: RunningAgent, client: ControlClient) -> None:
    _start(client, _source("plain"))
    client.close()
    after = Pushes()
    with agent.client(MANAGER, after.put) as again:
        again.call(m.RenewLease(lease="l", ttl_s=60))
        assert _states(again) == [("m", "starting")]
        again.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
        assert after.state("m", "done", "failed").phase == "done"


def test_sigterm_leaves_nothing(agent: RunningAgent, client: ControlClient, pushes: Pushes) -> None:
    process = Watched(_start(client, _reader(agent, "plain")).pid)
    assert agent.stop() == 0
    assert process.wait_gone(0)
    assert not agent.settings.endpoint_file.exists()
    while not isinstance(lost := pushes.get(timeout=WAIT_S), AgentLost):
        pass
    assert lost.error.retryable
    with pytest.raises(ConnectionLost):
        client.call(m.Heartbeat())


@pytest.mark.parametrize("task", ["plain", "hangs"])
def test_a_killed_agent_leaves_no_mover(agent: RunningAgent, client: ControlClient, pushes: Pushes, task: str) -> None:
    process = Watched(_start(client, _reader(agent, task)).pid)
    agent.kill()
    assert process.wait_gone()
    while not isinstance(pushes.get(timeout=WAIT_S), AgentLost):
        pass


def test_a_killed_agent_leaves_neither_forked_movers_nor_their_template(tmp_path: Path) -> None:
    """The real template and real movers: readers, which wait for a peer."""
    with start_agent(tmp_path, authorised=[MANAGER.public]) as agent, agent.client(MANAGER) as client:
        client.call(m.RenewLease(lease="l", ttl_s=60))
        repository = str(agent.roots["repository"] / "r")
        client.call(m.CreateRepository(repository=repository, repository_id=new_sid(), slots=()))
        for number in itertools.count():
            started = _start(client, _reader(agent, "t"), f"m{number}")
            if "nursery" in Path(f"/proc/{started.pid}/cmdline").read_text():
                break
            client.call(m.StopMover(lease="l", mover=f"m{number}", reason="it was no fork"))
        processes = [Watched(pid) for pid in children(agent.process.pid)]
        assert len(processes) == 2
        agent.kill()
        assert all(process.wait_gone() for process in processes)


def test_the_number_of_movers_is_bounded(agent: RunningAgent, client: ControlClient) -> None:
    with pytest.raises(Locked):
        for number in range(17):  # 2 + 2 slots, 4 movers each
            _start(client, _reader(agent, "plain"), f"m{number}")
    assert len(_states(client)) == 16


def test_a_target_needs_a_session_of_its_lease(agent: RunningAgent, client: ControlClient, pushes: Pushes) -> None:
    sid, path = new_sid(), str(agent.roots["repository"] / "r")
    client.call(m.CreateRepository(repository=path, repository_id=new_sid(), slots=()))

    def target(sid: Sid, repository: str = path, number: int = 1) -> TargetSpec:
        return TargetSpec(task_id="facts", secret=SECRET, repository=repository, sid=sid, mover=number)

    with pytest.raises(SessionUnknown):
        _start(client, target(sid))
    with pytest.raises(RepositoryDenied):
        _start(client, target(sid, "/etc"))
    client.call(m.BeginSession(lease="l", repository=path, sid=sid))
    with pytest.raises(UsageError):
        _start(client, target(sid, number=-1))
    client.call(m.RenewLease(lease="other", ttl_s=60))
    with pytest.raises(SessionUnknown):
        client.call(m.StartMover(lease="other", mover="m", spec=target(sid)))
    _start(client, target(sid))
    client.call(m.BeginTransfer(lease="l", mover="m", order=ORDER))
    result = pushes.state("m", "done").result
    assert result is not None
    facts = json.loads(result.used_disk)
    assert facts["session_fd"] is not None
    assert facts["fds"] == sorted([0, 1, 2, facts["session_fd"]])
