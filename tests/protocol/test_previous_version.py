"""Managers and agents of the previous minor version: what they wrote is read, what they do not know done without.

``golden/control-1.2.json`` holds frames as version 1.2 wrote them; it is never made anew. When the minor version grows,
frames of the one before take a file of their own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.channel.control_client import ControlClient
from holdfast_agent.errors import MalformedMessage, UnknownMessage
from holdfast_agent.wire import codec
from holdfast_agent.wire import messages as m
from holdfast_agent.wire.messages import Push
from holdfast_manager.catalog.values import AgentEntry, AgentRole
from holdfast_manager.enrolment.health import ask_state
from lab.agents import start_agent
from lab.control_peer import RawPeer

_GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "control-1.2.json").read_text())
REQUESTS = {name: bytes.fromhex(frame) for name, frame in _GOLDEN["requests"].items()}
REPLIES = {name: bytes.fromhex(frame) for name, frame in _GOLDEN["replies"].items()}
MANAGER, AGENT = KeyPair.generate(), KeyPair.generate()


@pytest.mark.parametrize("name", REQUESTS)
def test_what_a_manager_wrote_then_is_read(name: str) -> None:
    assert type(codec.decode_request(REQUESTS[name])).__name__ == name


@pytest.mark.parametrize("name", REPLIES)
def test_what_an_agent_wrote_then_is_read(name: str) -> None:
    assert type(codec.decode_from_agent(REPLIES[name])).__name__ == name


def test_an_agent_works_for_a_manager_of_then(tmp_path: Path) -> None:
    misread = {UnknownMessage.code, MalformedMessage.code}
    with (
        start_agent(tmp_path, authorised=[MANAGER.public]) as agent,
        RawPeer(agent.endpoint, agent.public_key, MANAGER) as manager,
    ):
        hello = manager.ask(REQUESTS["Hello"])
        assert isinstance(hello, m.HelloReply)
        assert hello.major == 1
        assert isinstance(manager.ask(REQUESTS["RenewLease"]), m.Done)
        for name in sorted(REQUESTS.keys() - {"Hello", "RenewLease", "CloseLease"}):
            reply = manager.ask(REQUESTS[name])
            assert not isinstance(reply, m.Failure) or reply.error.code not in misread, f"{name}: {reply}"
        assert isinstance(manager.ask(REQUESTS["CloseLease"]), m.Done)


class OldAgent:
    """Answers as an agent of then: it does not know what came later. A context manager."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.curve_server = True
        self._socket.curve_secretkey = AGENT.secret
        self._socket.curve_publickey = AGENT.public.encode()
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> OldAgent:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()
        self._context.term()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            if not self._socket.poll(20):
                continue
            identity, correlation, frame = self._socket.recv_multipart()
            name = msgspec.msgpack.decode(frame)["type"]
            reply = "HelloReply" if name == "Hello" else "Done" if name in REQUESTS else "Failure"
            self._socket.send_multipart([identity, correlation, REPLIES[reply]])
            if name == "RenewLease":
                self._socket.send_multipart(
                    [identity, codec.pack_correlation(codec.PUSH_CORRELATION), REPLIES["MoverChanged"]]
                )


@pytest.fixture
def old() -> Iterator[OldAgent]:
    with OldAgent() as agent:
        yield agent


def test_a_manager_works_with_an_agent_of_then(old: OldAgent) -> None:
    pushed: list[Push] = []
    told = threading.Event()

    def on_push(push: Push) -> None:
        pushed.append(push)
        told.set()

    with ControlClient(old.endpoint, AGENT.public, MANAGER, on_push, 10.0) as client:
        assert (client.hello.minor, client.hello.agent) == (2, "old")
        assert isinstance(client.call(m.RenewLease(lease="l", ttl_s=60)), m.Done)
        assert told.wait(60)
        assert isinstance(client.call(m.Heartbeat()), m.Done)
    (change,) = pushed
    assert isinstance(change, m.MoverChanged)
    assert change.state.counters.read_bytes == 5


def test_what_it_cannot_tell_is_done_without(old: OldAgent) -> None:
    entry = AgentEntry(name="old", endpoint=old.endpoint, public_key=AGENT.public, roles=(AgentRole.PROXY,))
    state = ask_state(entry, MANAGER)
    assert (state.hello.agent, state.health, state.clock_ahead_s) == ("old", None, None)
