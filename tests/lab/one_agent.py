"""Fixtures for tests that talk to one real agent over its control channel."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.wire import messages as m

from .agents import RunningAgent, start_agent

MANAGER = KeyPair.generate()
WAIT_S = 60.0


@pytest.fixture
def pushes() -> queue.Queue[m.Push | AgentLost]:
    """What the agent says by itself to ``client``."""
    return queue.Queue()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    """It has admitted ``MANAGER``."""
    with start_agent(tmp_path, authorised=[MANAGER.public]) as running:
        yield running


@pytest.fixture
def client(agent: RunningAgent, pushes: queue.Queue[m.Push | AgentLost]) -> Iterator[ControlClient]:
    """Connected as ``MANAGER``, with a lease called "l"."""
    with agent.client(MANAGER, pushes.put) as connected:
        connected.call(m.RenewLease(lease="l", ttl_s=60))
        yield connected
