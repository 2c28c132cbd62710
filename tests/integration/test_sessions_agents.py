"""A session's connections to its agents while one of them is away: nobody waits longer than for one look at it."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import AgentLost, ControlClient
from holdfast_agent.errors import AgentAway, ConnectionLost, Unreachable
from holdfast_agent.model.ids import new_sid
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.specs import ReaderSpec
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.values import AgentEntry, AgentRole
from holdfast_manager.sessions import agents
from holdfast_manager.sessions.agents import AgentPool
from lab.agents import RunningAgent
from lab.one_agent import MANAGER, WAIT_S
from lab.processes import alive
from lab.relay import Relay

ASKING = 8
SILENT_S = 1.0
LIST = m.ListMovers(lease="l")


@pytest.fixture
def nobody(catalog: Catalog) -> Iterator[socket.socket]:
    """The agent "a": connections to it are taken, and nothing is ever said on them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        _add(catalog, f"tcp://127.0.0.1:{server.getsockname()[1]}", KeyPair.generate().public)
        yield server


def _add(catalog: Catalog, endpoint: str, key: str) -> None:
    roles = (AgentRole.PROXY, AgentRole.REPOSITORY)
    catalog.agents.add(AgentEntry(name="a", endpoint=endpoint, public_key=key, roles=roles))


def _pool(catalog: Catalog, **settings: float) -> AgentPool:
    return AgentPool(catalog, MANAGER, "l", on_push=lambda _agent, _push: None, **{"ttl_s": 60.0, **settings})


def _ask_in_vain(pool: AgentPool) -> None:
    with pytest.raises(Unreachable):
        pool.ask("a", LIST, m.MoverList)


def _looks(server: socket.socket) -> int:
    """How many came to speak with it, since this was asked last; not who came to see why it says nothing."""
    count = 0
    while True:
        try:
            peer = server.accept()[0]
        except BlockingIOError:
            return count
        with peer:
            count += bool(peer.recv(1))


def test_all_who_ask_at_once_wait_for_one_look(catalog: Catalog, nobody: socket.socket) -> None:
    pool, together = _pool(catalog, ttl_s=SILENT_S), Barrier(ASKING)

    def ask(_number: int) -> None:
        together.wait()
        _ask_in_vain(pool)

    with ThreadPoolExecutor(ASKING) as threads:
        list(threads.map(ask, range(ASKING)))
    assert _looks(nobody) == 1
    _ask_in_vain(pool)
    assert _looks(nobody) == 1, "who asks later looks anew"
    for _ in range(ASKING):
        with pytest.raises(Unreachable):
            pool.dismiss("a", m.StopMover(lease="l", mover="m", reason="test"))
    assert _looks(nobody) == 0, "nobody waits to have something ended"


def test_many_believe_for_a_while_what_one_has_seen(catalog: Catalog, nobody: socket.socket) -> None:
    pool = _pool(catalog, ttl_s=SILENT_S, believe_s=WAIT_S)
    for _ in range(ASKING):
        _ask_in_vain(pool)
    assert _looks(nobody) == 1


def test_an_agent_that_stays_away_is_given_up_when_its_lease_is_over(catalog: Catalog, nobody: socket.socket) -> None:
    pool = _pool(catalog, ttl_s=SILENT_S, believe_s=WAIT_S)
    with pytest.raises(AgentAway, match="the agent a was lost and not back after 1 s"):
        pool.insist("a", LIST, m.MoverList)
    assert _looks(nobody) == 1


def test_agents_that_hang_cost_the_others_no_lease(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal of each is under way before any is over."""
    together = Barrier(ASKING)

    class Hanging:
        def call(self, request: m.Request, timeout_s: float) -> None:
            assert (request, timeout_s) == (m.RenewLease(lease="l", ttl_s=60.0), 30.0)
            together.wait(WAIT_S)

    pool = _pool(catalog)
    monkeypatch.setattr(pool, "_clients", {str(number): Hanging() for number in range(ASKING)})
    pool.renew()
    assert not together.broken


def test_what_an_agent_was_to_end_it_ends_first_of_all_when_it_is_back(
    catalog: Catalog, agent: RunningAgent, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line was cut, not the agent's life: under the lease that is renewed a mover would go on for ever."""
    lost = queue.SimpleQueue[AgentLost]()

    def heard(_agent: str, push: m.Push | AgentLost) -> None:
        if isinstance(push, AgentLost):
            lost.put(push)

    with Relay(int(agent.endpoint.rpartition(":")[2])) as line:
        _add(catalog, line.endpoint, agent.public_key)
        pool = AgentPool(catalog, MANAGER, "l", 60.0, heard)
        spec = ReaderSpec(task_id="t", secret=bytes(32), repository=str(agent.roots["repository"] / "r"))
        client.call(m.CreateRepository(repository=spec.repository, repository_id=new_sid(), slots=()))
        mover = pool.ask("a", m.StartMover(lease="l", mover="m", spec=spec), m.MoverStarted).pid
        line.cut(refuse=True)
        lost.get(timeout=WAIT_S)
        monkeypatch.setattr(agents, "_SILENT_S", SILENT_S)
        with pytest.raises((Unreachable, ConnectionLost)):
            pool.dismiss("a", m.StopMover(lease="l", mover="m", reason="test"))
        monkeypatch.undo()
        assert alive(mover), "the lease lives, and nobody has told it"
        line.mend()
        pool.ask("a", LIST, m.MoverList)
        assert not alive(mover)
        pool.close()
