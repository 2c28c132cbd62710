"""Several hosts on one machine: network namespaces joined by bridges, with links that can be cut, poisoned and slowed.

Needs root. Every host has an interface and an address in every network: ``eth0`` in 10.66.0.0/24, ``eth1`` in
10.66.1.0/24, and so on. All of it lives in namespaces, so the machine's own network is never touched and addresses
clash with nothing. For a line that takes its time see :mod:`lab.delay_line`: not every kernel has netem.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.tools import missing, require_tool
from lab.waiting import wait_until

_PREFIX = "hflab"
_NAMESPACES = Path("/run/netns")
_numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    """One host. ``addresses`` has one for each network, in their order; ``namespace`` is its name for ``ip netns``.

    What is done to its links holds until :meth:`heal`; packets are dropped and rejected where they arrive.
    """

    name: str
    namespace: str
    addresses: tuple[str, ...]
    _bridges: str
    _number: int

    @property
    def address(self) -> str:
        """The address in the first network."""
        return self.addresses[0]

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line that runs ``arguments`` on this host; the process has the pid of what is run."""
        return ["ip", "netns", "exec", self.namespace, *map(str, arguments)]

    def run(self, *arguments: str | Path) -> str:
        """Run a program to its end and return what it printed; raises when it fails."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{arguments}: {done.stderr or done.stdout}"
        return done.stdout

    def start(self, *arguments: str | Path, **how: Any) -> subprocess.Popen[bytes]:
        """Start a program; it is killed at the latest when the network is taken down."""
        started = subprocess.Popen(self.command(*arguments), **how)
        # Before it has entered the namespace, nothing finds it there.
        wait_until(
            lambda: started.poll() is not None or self._is_home_of(started.pid), f"{arguments[0]} on {self.name}"
        )
        return started

    def cut(self, network: int = 0) -> None:
        """Pull the cable: the interface stays up without a carrier, nothing leaves and nothing arrives."""
        _ip("-n", self._bridges, "link", "set", self._port(network), "down")

    def black_hole(self, peer: Host | None = None) -> None:
        """Drop all that comes from ``peer`` (from anybody) without a word, as a partition does."""
        self._on_arrival(peer, "-j", "DROP")

    def reject(self, peer: Host | None = None) -> None:
        """Answer every TCP segment from ``peer`` (from anybody) with a reset, as a firewall or a dead program does."""
        self._on_arrival(peer, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")

    def lose(self, share: float, peer: Host | None = None) -> None:
        """Lose this share of the packets that arrive."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}")
        self._on_arrival(peer, *chance, "-j", "DROP")

    def slow(self, bytes_per_s: int, network: int = 0) -> None:
        """Limit what leaves this host in a network, as a thin line does: queued for 50 ms at most, then dropped."""
        burst = max(bytes_per_s // 50, 3200)  # a full segment at least, or nothing would ever leave
        _tc("-n", self.namespace, "qdisc", "replace", "dev", f"eth{network}", "root", "tbf",
            "rate", f"{bytes_per_s * 8}bit", "burst", f"{burst}", "latency", "50ms")  # fmt: skip

    def heal(self) -> None:
        """Undo all of the above."""
        self.run("iptables", "-w", "-F")
        for network in range(len(self.addresses)):
            _ip("-n", self._bridges, "link", "set", self._port(network), "up")
            with contextlib.suppress(AssertionError):  # there was no limit
                _tc("-n", self.namespace, "qdisc", "del", "dev", f"eth{network}", "root")

    def readdress(self, address: str, network: int = 0) -> Host:
        """Take another address (in the same network) in place of the old one, as DHCP may do; the host as it is now."""
        _ip("-n", self.namespace, "address", "flush", "dev", f"eth{network}")
        _ip("-n", self.namespace, "address", "add", f"{address}/24", "dev", f"eth{network}")
        addresses = (*self.addresses[:network], address, *self.addresses[network + 1 :])
        return Host(self.name, self.namespace, addresses, self._bridges, self._number)

    def sent_bytes(self, network: int = 0) -> int:
        """Bytes that have left by a network since the beginning, headers included."""
        return self._statistics(network)["tx"]["bytes"]

    def received_bytes(self, network: int = 0) -> int:
        """Bytes that have come in by a network since the beginning, headers included."""
        return self._statistics(network)["rx"]["bytes"]

    def _is_home_of(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/ns/net").samefile(_NAMESPACES / self.namespace)
        except OSError:  # it has ended
            return False

    def _statistics(self, network: int) -> Any:
        told = _ip("-n", self.namespace, "-s", "-json", "link", "show", "dev", f"eth{network}")
        return json.loads(told)[0]["stats64"]

    def _on_arrival(self, peer: Host | None, *what: str) -> None:
        for source in peer.addresses if peer is not None else ("0.0.0.0/0",):
            # Its own loopback is no link of the host's.
            self.run("iptables", "-w", "-A", "INPUT", "!", "-i", "lo", "-s", source, *what)

    def _port(self, network: int) -> str:
        return f"h{self._number}n{network}"


@contextlib.contextmanager
def network(names: Sequence[str], networks: int = 1) -> Iterator[tuple[Host, ...]]:
    """Hosts with these names, each with a link to each of ``networks``; whatever happens, all is gone at the end.

    Skips the test without root; fails it in continuous integration.
    """
    for program, package in (("ip", "iproute2"), ("tc", "iproute2"), ("iptables", "iptables")):
        require_tool(program, package)
    if os.geteuid() != 0:
        missing("network namespaces need root")
    _remove_leftovers()
    prefix = f"{_PREFIX}-{os.getpid()}-{next(_numbers)}"
    hosts = tuple(
        Host(
            name,
            f"{prefix}-{name}",
            tuple(f"10.66.{each}.{number + 1}" for each in range(networks)),
            f"{prefix}-bridges",
            number,
        )
        for number, name in enumerate(names)
    )
    try:
        _build(f"{prefix}-bridges", hosts, networks)
        yield hosts
    finally:
        for namespace in (*(host.namespace for host in hosts), f"{prefix}-bridges"):
            _remove(namespace)


def _build(bridges: str, hosts: Sequence[Host], networks: int) -> None:
    for namespace in (bridges, *(host.namespace for host in hosts)):
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
    for each in range(networks):
        _ip("-n", bridges, "link", "add", f"bridge{each}", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        _ip("-n", bridges, "link", "set", f"bridge{each}", "up")
        for number, host in enumerate(hosts):
            port, device = f"h{number}n{each}", f"eth{each}"
            _ip("-n", bridges, "link", "add", port, "type", "veth", "peer", "name", device, "netns", host.namespace)
            _ip("-n", bridges, "link", "set", port, "master", f"bridge{each}", "up")
            _ip("-n", host.namespace, "address", "add", f"{host.addresses[each]}/24", "dev", device)
            _ip("-n", host.namespace, "link", "set", device, "up")


def _remove(namespace: str) -> None:
    """End what runs in a namespace and take it away; its links go with it. Nothing happens if it is not there."""
    if not (_NAMESPACES / namespace).exists():
        return
    wait_until(lambda: not _killed(namespace), f"the end of all in {namespace}")
    _ip("netns", "del", namespace)


def _killed(namespace: str) -> list[str]:
    """What runs in a namespace, and has been killed now; not what it was about to fork."""
    pids = _ip("netns", "pids", namespace).split()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return pids


def _remove_leftovers() -> None:
    """Namespaces of test runs that were killed."""
    for place in _NAMESPACES.glob(f"{_PREFIX}-*"):
        maker = place.name.split("-")[1]
        if not Path(f"/proc/{maker}").exists():
            try:
                _remove(place.name)
            except AssertionError:
                if place.exists():  # or else another test that runs was quicker
                    raise


def _ip(*arguments: str) -> str:
    return _system("ip", *arguments)


def _tc(*arguments: str) -> str:
    return _system("tc", *arguments)


def _system(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout
