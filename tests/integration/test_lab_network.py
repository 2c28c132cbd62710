"""The laboratory itself: a network whose faults do not happen would let every test of resilience pass."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.delay_line import delay_line
from lab.network import Host, network

_SERVER = """
import socket
with socket.create_server(("", 7000)) as server:
    print("listening", flush=True)
    while True:
        peer, _ = server.accept()
        with peer:
            while peer.recv(1 << 16):
                pass
"""
_CLIENT = """
import socket, sys, time
host, count, patience_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
try:
    with socket.create_connection((host, 7000), patience_s) as peer:
        began = time.monotonic()
        peer.settimeout(20)
        for _ in range(count):
            peer.sendall(bytes(1024))
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)
        print(f"{time.monotonic() - began:.3f}")
except OSError as error:
    print(type(error).__name__)
"""

_KILLED = """
import os, signal
from pathlib import Path
from lab.network import network
with network(["a"]):
    if list(Path("/run/netns").glob(f"hflab-{os.getpid()}-*")):
        print("made", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, ...]]:
    with network(["left", "right"], networks=2) as made:
        server = made[1].start(sys.executable, "-c", _SERVER, stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        yield made
        server.kill()
        server.wait()
        server.stdout.close()


def _talk(hosts: tuple[Host, ...], to: str = "", patience_s: float = 0.7, kib: int = 1) -> str:
    """How long it takes until the other has it all, or what becomes of it; ``patience_s``: for the connection."""
    left, right = hosts
    return left.run(sys.executable, "-c", _CLIENT, to or right.address, str(kib), str(patience_s)).strip()


def _seconds(hosts: tuple[Host, ...], to: str = "", kib: int = 1) -> float:
    return float(_talk(hosts, to, 60, kib))


def test_hosts_reach_each_other_in_each_network(hosts: tuple[Host, ...]) -> None:
    before = hosts[0].sent_bytes(1), hosts[1].received_bytes(1)
    _seconds(hosts)
    assert hosts[0].sent_bytes(1) - before[0] < 2000, "the other network was used"
    _seconds(hosts, hosts[1].addresses[1], 64)
    assert hosts[0].sent_bytes(1) - before[0] > 64 << 10
    assert hosts[1].received_bytes(1) - before[1] > 64 << 10


def test_each_fault_happens_and_heals(hosts: tuple[Host, ...]) -> None:
    left, right = hosts
    faults = {
        "cut": (lambda: left.cut(), "TimeoutError"),
        "black hole": (lambda: right.black_hole(left), "TimeoutError"),
        "reject": (lambda: right.reject(left), "ConnectionRefusedError"),
        "lose": (lambda: right.lose(1.0), "TimeoutError"),
    }
    for name, (happen, seen) in faults.items():
        happen()
        assert _talk(hosts) == seen, name
        if name == "cut":
            _seconds(hosts, right.addresses[1])  # only the one network was cut
        left.heal()
        right.heal()
        _seconds(hosts)


def test_a_slow_line_is_slow_in_one_direction(hosts: tuple[Host, ...]) -> None:
    hosts[0].slow(200_000)
    slow = _seconds(hosts, kib=400)
    assert slow > 1.2
    hosts[0].heal()
    assert _seconds(hosts, kib=400) < slow


def test_an_address_can_change(hosts: tuple[Host, ...]) -> None:
    moved = hosts[1].readdress("10.66.0.77")
    assert moved.addresses == ("10.66.0.77", "10.66.1.2")
    _seconds(hosts, moved.address)
    assert _talk(hosts) in ("TimeoutError", "OSError")
    moved.readdress(hosts[1].address)
    _seconds(hosts)


def test_nothing_is_left_even_of_a_killed_run() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", _KILLED], env=environment, stdout=subprocess.PIPE) as dead:
        told, _ = dead.communicate()
    assert told == b"made\n"
    with network(["b"]) as (host,):
        sleeper = host.start("sleep", "600")
        assert not list(Path("/run/netns").glob(f"hflab-{dead.pid}-*"))
    assert sleeper.wait(60) != 0
    assert not list(Path("/run/netns").glob(f"hflab-{os.getpid()}-*-b"))


def test_a_long_line_takes_its_time_and_carries_no_more_than_it_may(hosts: tuple[Host, ...]) -> None:
    with delay_line(hosts[0], hosts[1], 0.06, 4_000_000) as (_, far):
        assert _seconds(hosts, far) >= 0.12
        assert _seconds(hosts, far, 2048) >= 2 * 1024 * 1024 / 4_000_000
    assert "line0" not in hosts[0].run("ip", "link"), "the line is gone with its devices"
