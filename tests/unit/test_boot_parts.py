"""Parts of a boot proof: what a guest may say to its monitor's neighbours, and what a manager may name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from holdfast_agent.boot import process
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
