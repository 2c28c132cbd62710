"""How each side of the control channel notices that the other has gone."""

from __future__ import annotations

import queue
import signal
import threading
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import ConnectionLost
from holdfast_agent.wire.messages import Done, Heartbeat, ListMovers, MoverList, Push, RenewLease
from lab.agents import start_agent

MANAGER = KeyPair.generate()
WAIT_S = 60.0


def test_a_silent_agent_is_lost_and_pending_calls_fail(tmp_path: Path) -> None:
    """A process that is stopped keeps its connections open and says nothing: only the clock can tell."""
    told: queue.Queue[Push | AgentLost] = queue.Queue()
    with start_agent(tmp_path, authorised=[MANAGER.public]) as agent, agent.client(MANAGER, told.put, 2.0) as client:
        agent.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionLost, match="nothing heard for"):
                client.call(Heartbeat())
            lost = told.get(timeout=WAIT_S)
            assert isinstance(lost, AgentLost)
            assert lost.error.retryable
            with pytest.raises(ConnectionLost, match="nothing heard for"):
                client.call(Heartbeat())
        finally:
            agent.process.send_signal(signal.SIGCONT)
    assert told.empty()  # told once


def test_heartbeats_keep_an_idle_connection(tmp_path: Path) -> None:
    told: queue.Queue[Push | AgentLost] = queue.Queue()
    with start_agent(tmp_path, authorised=[MANAGER.public]) as agent, agent.client(MANAGER, told.put, 2.0) as client:
        with pytest.raises(queue.Empty):
            told.get(timeout=2.5)  # longer than the silence that is borne: it would have been lost
        assert isinstance(client.call(Heartbeat()), Done)


def test_a_killed_agent_is_noticed_at_once(tmp_path: Path) -> None:
    told: queue.Queue[Push | AgentLost] = queue.Queue()
    with start_agent(tmp_path, authorised=[MANAGER.public]) as agent, agent.client(MANAGER, told.put, 600) as client:
        agent.kill()
        assert isinstance(told.get(timeout=WAIT_S), AgentLost)
        with pytest.raises(ConnectionLost):
            client.call(Heartbeat())


def test_many_threads_share_a_client(tmp_path: Path) -> None:
    replies: queue.Queue[object] = queue.Queue()
    with start_agent(tmp_path, authorised=[MANAGER.public]) as agent, agent.client(MANAGER) as client:

        def work(number: int) -> None:
            for turn in range(20):
                lease = f"{number}-{turn}"
                replies.put(client.call(RenewLease(lease=lease, ttl_s=10)))
                replies.put(client.call(ListMovers(lease=lease)))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    found = [type(replies.get_nowait()) for _ in range(replies.qsize())]
    assert found.count(Done) == found.count(MoverList) == 160


def test_a_defect_of_the_listener_does_not_end_the_connection(tmp_path: Path) -> None:
    def fails(push: Push | AgentLost) -> None:
        raise RuntimeError("a defect of the caller")

    with start_agent(tmp_path, authorised=[MANAGER.public]) as agent, agent.client(MANAGER, fails) as client:
        agent.kill()
        with pytest.raises(ConnectionLost):
            client.call(Heartbeat(), timeout_s=WAIT_S)
