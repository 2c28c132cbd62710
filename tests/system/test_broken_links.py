"""Lines that break and proxies that die in the middle of a transfer: the session goes on, and sends nothing twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.contents import assert_same
from lab.estate import Estate, estate
from lab.network import Host
from lab.processes import MOVER, children

MIB = 1 << 20
SIZE_MIB = 32
PATIENCE_S = 60.0
RATE = "8 MiB"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """Two proxies and a repository."""
    roles = {"one": "proxy", "two": "proxy", "vault": "repository"}
    with estate(tmp_path_factory.mktemp("broken"), roles) as made:
        made.add_plain_repository("main", "vault")
        yield made


class Running:
    """A job on a VM of random data that was started and has stored something."""

    def __init__(self, house: Estate, vm: str) -> None:
        self.house, self.vm = house, vm
        self.content = random.Random(vm).randbytes(SIZE_MIB * MIB)
        (house.vms / vm).mkdir()
        (house.vms / vm / "disk.raw").write_bytes(self.content)
        options = ("--proxy", "one", "--proxy", "two", "--retry-pause", "1 s", "--bandwidth", RATE)
        house.add_job(vm, *options, "--compression", "none", repository="main", include=vm)
        self.session: int = house.holdfast("job", "run", vm, "--detach")["session"]
        self.wait(lambda report: report["disks"] and self.sent(report) >= SIZE_MIB * MIB // 3)

    def wait(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not condition(report := self.house.holdfast("session", "show", str(self.session))):
            assert time.monotonic() < deadline, f"in vain: {report}"
        return report

    def ended(self) -> dict[str, Any]:
        """The report of the session, which must have succeeded; what it stored restores bit for bit."""
        report = self.wait(lambda report: report["state"] == "ended")
        assert report["result"] in ("success", "warning"), (report["problems"], report["steps"])
        to = self.house.out / f"{self.vm}.raw"
        self.house.restore_disk(self.vm, "latest", to, "--proxy", "two")
        assert_same(to.read_bytes(), self.content)
        return report

    @staticmethod
    def sent(report: dict[str, Any]) -> int:
        return int(report["disks"][0]["counters"]["transferred_bytes"])


def test_a_line_that_is_reset_in_mid_transfer_is_resumed_within_the_task(house: Estate) -> None:
    proxy, vault = house.hosts["one"], house.hosts["vault"]
    before = vault.received_bytes()
    running = Running(house, "reset")
    vault.reject(proxy)
    running.wait(lambda report: report["disks"][0]["counters"]["resumed"] > 0 or _refused(vault))
    vault.heal()

    report = running.ended()

    disk = report["disks"][0]
    assert disk["counters"]["resumed"] >= 1 and disk["attempt"] == 1, disk
    arrived = vault.received_bytes() - before
    assert arrived < 1.05 * SIZE_MIB * MIB + disk["counters"]["resent_bytes"], "what had arrived was sent again"


def test_a_proxy_that_cannot_reach_the_repository_any_more_is_replaced_by_another(house: Estate) -> None:
    """A partition without a word that never heals; the manager reaches both sides all the time."""
    proxy, vault = house.hosts["one"], house.hosts["vault"]
    before = vault.received_bytes()
    running = Running(house, "parted")
    vault.black_hole(proxy)
    try:
        report = running.ended()
    finally:
        vault.heal()
    assert report["disks"][0]["proxy"] == "two", report["disks"]
    arrived = vault.received_bytes() - before
    assert arrived < 1.5 * SIZE_MIB * MIB, "what was stored before was sent again"


@pytest.mark.parametrize("what", ["mover", "agent"])
def test_a_task_whose_source_mover_or_whole_proxy_dies_goes_on_at_another_proxy(house: Estate, what: str) -> None:
    vault, agent = house.hosts["vault"], house.agents["one"]
    before = vault.received_bytes()
    running = Running(house, f"orphan-{what}")
    assert agent.process is not None
    if what == "mover":
        (mover,) = children(agent.process.pid, MOVER)
        os.kill(mover, signal.SIGKILL)
    else:
        agent.kill()
    try:
        report = running.ended()
    finally:
        if what == "agent":
            agent.start()
    (disk,) = report["disks"]
    assert (disk["proxy"], disk["attempt"]) == ("two", 2), disk
    arrived = vault.received_bytes() - before
    assert arrived < 1.5 * SIZE_MIB * MIB, "what was stored before was sent again"
    if what == "agent":
        told = [problem["message"] for problem in report["problems"]]
        assert any("the connection to the agent one was lost" in message for message in told), told


def _refused(host: Host) -> bool:
    """Whether the host has rejected anything that came."""
    rows = [line.split() for line in host.run("iptables", "-w", "-nvxL", "INPUT").splitlines()]
    return any(int(row[0]) > 0 for row in rows if "REJECT" in row)
