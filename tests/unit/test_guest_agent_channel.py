"""What a guest's agent may answer: anything. And the path of Windows guests, which no test can run for real."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast_agent.errors import GuestAgentRefused, GuestAgentSilent, GuestProcessingFailed
from holdfast_plugins.api import AgentChannel, ConsistencyLevel, InGuest, VmInfo, VmRef
from holdfast_plugins.guest import agent_socket
from holdfast_plugins.guest.agent_client import AgentClient
from holdfast_plugins.guest.agent_socket import AgentSocket
from holdfast_plugins.guest.options import GuestOptions
from holdfast_plugins.guest.qemu_agent import QemuAgentProcessor

VM = VmInfo(VmRef("web", "web"), ())
Answer = Callable[[dict[str, Any]], bytes]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[Answer], AgentSocket]]:
    """Serves one client by answering each line with whatever the test says; guest-sync-delimited is given rightly."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "qga"))
    listener.listen()
    threads: list[threading.Thread] = []

    def serve(answer: Answer, before: bytes) -> None:
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as lines:
            peer.sendall(before)
            for line in lines:
                command = json.loads(line.lstrip(b"\xff"))
                if command["execute"] == "guest-sync-delimited":
                    peer.sendall(b"\xff" + json.dumps({"return": command["arguments"]["id"]}).encode() + b"\n")
                else:
                    peer.sendall(answer(command))
                    return

    def start(answer: Answer, before: bytes = b"") -> AgentSocket:
        threads.append(threading.Thread(target=serve, args=(answer, before)))
        threads[-1].start()
        return AgentSocket(str(tmp_path / "qga"), "web")

    yield start
    for thread in threads:
        thread.join(10)
    listener.close()


def test_late_answers_of_an_earlier_client_are_passed_over(agent: Any) -> None:
    late = b'{"return": 7}\n\xff{"return": 12345}\n{"return": "half an ans'
    assert agent(lambda _: b'{"return": {}}\n', late).exchange(b'{"execute": "guest-ping"}', 5) == b'{"return": {}}'


def test_an_agent_that_hangs_up_or_floods_is_silent(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GuestAgentSilent, match="connection was closed"):
        agent(lambda _: b'{"return": ').exchange(b'{"execute": "guest-ping"}', 5)
    monkeypatch.setattr(agent_socket, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(GuestAgentSilent, match="an answer of more than 1000 bytes"):
        agent(lambda _: b"x" * 5000).exchange(b'{"execute": "guest-ping"}', 5)


def test_a_socket_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(GuestAgentSilent, match="No such file"):
        AgentSocket(str(tmp_path / "absent"), "web").exchange(b"{}", 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b'{"return": "many"}',
        b'{"return": [1]}',
        b'{"return": 1e400}',
        b'{"error": 5}',
        b"\xff\xfe",
        b"{" * 9,
    ],
)
def test_an_answer_that_is_not_of_the_protocol_is_refused(answer: bytes) -> None:
    with pytest.raises(GuestAgentRefused, match="not of its protocol"):
        AgentClient(Scripted({"guest-fsfreeze-freeze": answer}), "web").freeze(1)


class Scripted:
    """A channel to an agent that gives each command one answer, always the same."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self._answers = answers
        self.told: list[str] = []

    def agent(self) -> AgentChannel:
        return self

    def programs(self) -> InGuest:
        raise GuestProcessingFailed(vm="web", phase="programs", reason="there are none")

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        name = json.loads(command)["execute"]
        self.told.append(name)
        return self._answers[name]


def windows(**answers: bytes) -> Scripted:
    """An agent as its documentation has it, of a Windows guest with two volumes."""
    return Scripted(
        {
            "guest-fsfreeze-status": b'{"return": "thawed"}',
            "guest-get-osinfo": b'{"return": {"id": "mswindows", "name": "Microsoft Windows"}}',
            "guest-fsfreeze-freeze": b'{"return": 2}',
            "guest-fsfreeze-thaw": b'{"return": 2}',
        }
        | {f"guest-fsfreeze-{name}": answer for name, answer in answers.items()}
    )


def test_windows_is_frozen_by_vss_and_nothing_is_put_into_it() -> None:
    access = windows()
    handle = QemuAgentProcessor(GuestOptions(), {}).freeze(VM, access, 60)
    assert (handle.consistency, handle.note) == (ConsistencyLevel.APPLICATION, "2 file systems frozen")
    handle.thaw()
    assert not any(name.startswith(("guest-exec", "guest-file")) for name in access.told)


@pytest.mark.parametrize("answer", [b'{"return": 0}', b'{"error": {"desc": "VSS timed out"}}'])
def test_windows_that_vss_has_thawed_by_itself_is_told(answer: bytes) -> None:
    handle = QemuAgentProcessor(GuestOptions(), {}).freeze(VM, windows(thaw=answer), 60)
    with pytest.raises(GuestProcessingFailed, match="deadline passed"):
        handle.thaw()


def test_windows_takes_no_scripts(tmp_path: Path) -> None:
    access = windows()
    with pytest.raises(GuestProcessingFailed, match="scripts are run in Linux guests only"):
        QemuAgentProcessor(GuestOptions(pre_freeze=str(tmp_path / "script")), {}).freeze(VM, access, 60)
    assert "guest-fsfreeze-freeze" not in access.told
