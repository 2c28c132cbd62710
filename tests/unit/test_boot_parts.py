"""Parts of a boot proof: what a guest may say to its monitor's neighbours, and what a manager may name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from holdfast_agent.boot import process
from holdfast_agent.boot.guest_command import GuestCommand
from holdfast_agent.boot.lines import JsonLines
from holdfast_agent.boot.machine import _command
from holdfast_agent.errors import ToolMissing, UsageError
from holdfast_agent.export.folder import discard, folder_of
from holdfast_agent.model.boot import BootBus, BootFirmware
from holdfast_agent.wire.specs import BootSpec, BootWish
from lab.tools import require_tool


def spec(**changes: object) -> BootSpec:
    return BootSpec(**{"task_id": "t", "secret": b"", "export": "e", "disks": ("root",)} | changes)


@contextmanager
def talker(path: Path, *said: bytes) -> Iterator[JsonLines]:
    """The other end of a guest's agent, which says ``said`` and hangs up."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def talk() -> None:
        peer, _ = listener.accept()
        with peer:
            for each in said:
                peer.sendall(each)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        with closing(JsonLines(path)) as lines:
            yield lines
            lines.close()
        thread.join(60)
    finally:
        listener.close()


def test_lines_of_a_guest_are_taken_for_what_they_are_and_no_more(tmp_path: Path) -> None:
    flood = [b"x" * (1 << 20)] * 20  # a line without an end
    said = (b"\xff\xff{}\n", b"[1]\n", b"garbage\x00\n", b'{"return": 7}\n', *flood, b"\n", b'{"return": 8}\n')
    with talker(tmp_path / "s", *said) as lines:
        found = []
        while {"return": 8} not in found:
            found += list(lines.take())
            assert len(lines._buffer) <= (1 << 20) + (64 << 10)
    assert found == [{}, {"return": 7}, {"return": 8}]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", ".hidden", "x" * 65])
def test_a_manager_names_no_folder_but_an_export_s(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        folder_of(tmp_path, name)
    with pytest.raises(UsageError):
        discard(tmp_path, name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"disks": ()},
        {"disks": tuple("abcdefg")},
        {"memory_mib": 1},
        {"memory_mib": 1 << 40},
        {"cpus": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": float("nan")},
        {"wish": BootWish.CONSOLE},
        {"wish": BootWish.COMMAND},
        {"wish": BootWish.COMMAND, "text": "x" * 1001},
    ],
)
def test_bounds_of_a_boot_proof(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        process._check(spec(**wrong))


def test_qemu_is_started_alone_and_no_name_becomes_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool("qemu-system-x86_64", "qemu-system-x86")
    disk = 'root,readonly=off"}'
    command = _command(spec(bus=BootBus.SATA), {disk: tmp_path / "a,b"}, tmp_path / "c,d", "lab")
    assert command[command.index("-nic") + 1] == "none"
    assert command[command.index("-sandbox") + 1].startswith("on,")
    (node,) = [part for part in command if disk.replace('"', '\\"') in part]
    assert node.startswith("{")  # as JSON, where a comma is a comma
    assert f"unix:{tmp_path}/c,,d/qmp,server=on,wait=off" in command
    monkeypatch.setattr("holdfast_agent.boot.machine._UEFI", str(tmp_path / "none"))
    with pytest.raises(ToolMissing, match="OVMF"):
        _command(spec(firmware=BootFirmware.UEFI), {}, tmp_path, "lab")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="qemu-system"):
        _command(spec(), {}, tmp_path, "lab")


def test_a_command_is_run_again_until_it_ends_with_0_and_how_it_went_is_told() -> None:
    command = GuestCommand("pg_isready")
    asked = command.request(100.0)
    assert asked is not None and asked["arguments"]["arg"] == ["-c", "pg_isready"]
    command.take([{"return": 0x486F6C64}, {"return": {"pid": 7}}], 100.1)
    assert command.request(100.2) is None, "not yet"
    assert command.request(102.0) == {"execute": "guest-exec-status", "arguments": {"pid": 7}}
    command.take([{"return": {"exited": False}}], 102.1)
    assert command.told == "it has not ended"
    command.take([{"return": {"exited": True, "exitcode": 2, "err-data": "bm8gYW5zd2Vy"}}], 102.2)
    assert (command.told, command.proved) == ("exit code 2: no answer", False)
    assert command.request(103.0) is None, "a pause before it is run anew"
    assert command.request(104.3) == asked
    command.take([{"return": {"pid": 8}}, {"return": {"exited": True, "exitcode": 0}}], 104.4)
    assert command.proved and command.request(200.0) is None


def test_a_guest_proves_nothing_by_odd_answers() -> None:
    command = GuestCommand("true")
    command.take([{"return": {"pid": 1}}, {"return": {"exited": True, "exitcode": 0}}, {"error": {"desc": "?"}}], 1.0)
    assert not command.proved and not command.refused, "nothing was asked"
    command.request(1.0)
    command.take([{"return": {"exited": True, "exitcode": 0}}], 1.0)
    assert not command.proved, "nothing was run"
    command.take([{"return": {"pid": 1}}], 1.0)
    odd = ({"exited": 1, "exitcode": 0}, {"exited": True}, {"exited": True, "exitcode": "0"}, [], {"pid": "x"})
    command.take([{"return": each} for each in odd], 1.0)
    assert not command.proved and command.told == "exit code None"


def test_an_agent_that_runs_no_commands_is_told_at_once() -> None:
    command = GuestCommand("true")
    command.request(0.0)
    command.take([{"error": {"class": "CommandNotFound", "desc": "guest-exec has been disabled"}}], 1.0)
    assert "guest-exec has been disabled" in command.refused and command.request(9.0) is None
