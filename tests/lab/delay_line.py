"""A long line between two hosts: IP packets that take their time, as netem would have it, where a kernel has no netem.

Each end is a TUN device in its host's namespace; a program between them reads packets from the one and writes them to
the other after the delay, no faster than the line, and drops what does not fit into its queue. So TCP works as over a
real line: with its windows, acknowledgements, slow start and losses.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from lab.network import Host

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_DEVICE = "line0"
_ADDRESSES = ("10.67.0.1", "10.67.0.2")
_QUEUE_S = 0.1
_MTU = 9000
_QUEUE_PACKETS = 5000


@contextlib.contextmanager
def delay_line(one: Host, two: Host, delay_s: float, bytes_per_s: int) -> Iterator[tuple[str, str]]:
    """A line of its own between two hosts, with ``delay_s`` each way; both addresses. It is gone at the end."""
    arguments = (one.namespace, two.namespace, str(delay_s), str(bytes_per_s))
    command = [sys.executable, "-P", __file__, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            for host, address in zip((one, two), _ADDRESSES, strict=True):
                host.run("ip", "address", "add", f"{address}/24", "dev", _DEVICE)
                host.run("ip", "link", "set", _DEVICE, "mtu", str(_MTU), "txqueuelen", str(_QUEUE_PACKETS), "up")
            yield _ADDRESSES
        finally:
            process.kill()


class _Way:
    """One direction: packets with the time at which each is due at the other end."""

    def __init__(self, to_fd: int, delay_s: float, bytes_per_s: float) -> None:
        self._to = to_fd
        self._delay_s = delay_s
        self._rate = bytes_per_s
        self._free_at = 0.0
        self._packets: deque[tuple[float, bytes]] = deque()

    def take(self, packet: bytes, now: float) -> None:
        if self._free_at - now > _QUEUE_S:
            return
        self._free_at = max(now, self._free_at) + len(packet) / self._rate
        self._packets.append((self._free_at + self._delay_s, packet))

    def deliver(self, now: float) -> None:
        while self._packets and self._packets[0][0] <= now:
            with contextlib.suppress(OSError):  # the device is down, or its queue is full: a lost packet
                os.write(self._to, self._packets.popleft()[1])

    @property
    def due(self) -> float:
        return self._packets[0][0] if self._packets else float("inf")


def _open_device(namespace: str) -> int:
    """A TUN device in a namespace, into which this process goes for it."""
    with Path("/run/netns", namespace).open("rb") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _carry(one: int, two: int, delay_s: float, bytes_per_s: float) -> None:
    ways = {one: _Way(two, delay_s, bytes_per_s), two: _Way(one, delay_s, bytes_per_s)}
    poller = select.epoll()
    for device in ways:
        poller.register(device, select.EPOLLIN)
    while True:
        now = time.monotonic()
        wait_s = min(way.due for way in ways.values()) - now
        for device, _ in poller.poll(max(0.0, min(wait_s, 1.0))):
            now = time.monotonic()
            with contextlib.suppress(BlockingIOError):
                while True:
                    ways[device].take(os.read(device, 1 << 16), now)
        now = time.monotonic()
        for way in ways.values():
            way.deliver(now)


def _main() -> None:
    one, two = _open_device(sys.argv[1]), _open_device(sys.argv[2])
    print("ready", flush=True)
    _carry(one, two, float(sys.argv[3]), float(sys.argv[4]))


if __name__ == "__main__":
    _main()
